"""The three objectives as functions of tensors, and the sampling of hard negatives. All in fp32 or better."""
