"""Image and text sets for evaluation, read once in a fixed order."""
