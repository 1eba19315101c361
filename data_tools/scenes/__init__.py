"""Scenes of two objects and a relation, with known ceilings: data for all tasks whose right answers are known exactly."""
