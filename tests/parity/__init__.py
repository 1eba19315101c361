"""Comparison with numbers that the released ALBEF code produced: `python -m tests.parity DIR`."""
