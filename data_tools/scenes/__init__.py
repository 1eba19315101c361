"""Generated scenes of two objects and a relation, with exact answers and known score ceilings, for all tasks."""
