"""Tensor files, one tensor at a time: safetensors and torch's zip form, read by position and written in one pass.

Independent of models, names and checkpoints.
"""
