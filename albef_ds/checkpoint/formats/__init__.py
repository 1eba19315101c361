"""Reads and writes whole models in several formats: released files, our checkpoints, safetensors, model folders.

`read.py` and `write.py` are the entry points. A format's module recognises its files, reads them as a `WholeModel` (our names,
lazily read tensors) and writes one.
"""
