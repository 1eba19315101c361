"""Comparison with numbers that the released ALBEF code produced: `python -m tests.parity DIR`.

Across packages, since models, losses, tasks and the plain engine are compared together.
"""
