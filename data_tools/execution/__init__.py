"""Runs stages: the folder of results with its completion marks, and the processes."""
