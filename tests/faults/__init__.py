"""Runs that are killed and go on: across packages, since training, data and checkpoints must agree."""
