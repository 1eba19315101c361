"""Counts of a whole optimizer step, kept as JSON: across packages, from the task down to DeepSpeed."""
