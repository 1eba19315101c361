"""Losses over wide rows of logits that never exist as a whole."""
