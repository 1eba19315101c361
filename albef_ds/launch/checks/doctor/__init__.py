"""Checks of `albef-ds doctor`: this machine and its packages. Preflight checks a run's shards, folder and nodes."""
