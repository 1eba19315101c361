"""The three objectives as functions of tensors, and the sampling of hard negatives. All in fp32 or better.

`wide.py` chooses between whole rows of logits and slices of columns.
"""
