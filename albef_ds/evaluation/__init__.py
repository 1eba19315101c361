"""Scoring runs and models: splits, checkpoints, protocols. Measures are in `metrics/`, each task's way to them in `tasks/`."""
