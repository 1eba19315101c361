"""Measures of a model on a set, over all ranks. Evaluators are constructed with what they need, `run()` yields (name, value)."""
