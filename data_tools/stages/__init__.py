"""The stages of albef-data, in the order in which they run."""
