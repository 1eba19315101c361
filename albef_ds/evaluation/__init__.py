"""Scores runs and models: splits, checkpoints, protocols. Metrics are in `metrics/`, their choice per task in `tasks/`."""
