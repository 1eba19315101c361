"""Tensors on disk, one at a time: safetensors and torch's zip form, read by position and written in one pass.

Knows nothing of models, names or checkpoints.
"""
