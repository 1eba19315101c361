"""Initial weights of a run: published encoders, another model, or random numbers."""
