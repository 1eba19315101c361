"""Runs an optimizer step: the interface, the plain single-process engine, and DeepSpeed ZeRO."""
