"""Reads the folder of a run for people: its log as series, its state, a page about it. Does not import torch."""
