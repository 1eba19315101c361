"""ALBEF (align before fuse, arXiv 2107.07651) for large-scale vision-language pretraining on DeepSpeed ZeRO."""

__version__ = "0.1.0"
