"""Evaluators: constructed with what they need, `run()` yields (name, value)."""
