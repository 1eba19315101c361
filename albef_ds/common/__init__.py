"""Helpers independent of ALBEF: errors, collectives, devices, atomic files, exit codes. Imports no other package of the tree."""
