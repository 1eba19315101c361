"""Tests on a real Slurm: across packages, from the scripts in slurm/ to training, checkpoints and data_tools."""
