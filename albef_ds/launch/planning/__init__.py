"""Predicts memory and speed of a run and finds settings that fit, from the real model's shapes, without training."""
