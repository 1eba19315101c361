"""The three objectives as functions of tensors, and the sampling of hard negatives, in fp32 or better.

`wide.py` chooses between full rows of logits and slices of columns.
"""
