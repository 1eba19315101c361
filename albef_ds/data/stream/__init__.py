"""Training batches in one deterministic order that any number of ranks can resume."""
