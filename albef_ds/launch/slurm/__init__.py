"""Runs under Slurm: submitting, checking the nodes, staging shards, starting ranks, and surviving what ends a job early."""
