"""Metrics of a model on an evaluation set, computed by all ranks together."""
