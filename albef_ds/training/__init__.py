"""The training loop, what watches it, and the reports about its runs."""
