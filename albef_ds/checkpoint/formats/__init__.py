"""Whole models from one form of storage to another: released files, our checkpoints, safetensors, model folders.

`api.py` is what others call. A format is a module that finds out whether a path is of it, reads it as a `WholeModel` (our
names, tensors that are read when asked for) and writes one.
"""
