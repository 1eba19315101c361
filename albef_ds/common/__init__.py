"""Helpers that know nothing of ALBEF: errors, collectives, devices, atomic files, exit codes. Imports nothing."""
