"""Checks this machine and the nodes of a job before a run."""
