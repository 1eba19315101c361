"""Sends the numbers of a run to Weights & Biases, MLflow and trackio, each in a process of its own."""
