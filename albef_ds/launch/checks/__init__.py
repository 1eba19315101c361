"""Checks of this machine and of the nodes of a job before a run."""
