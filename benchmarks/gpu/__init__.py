"""Checks and measures everything on a GPU, in minutes and unattended: `python -m benchmarks.gpu`."""
