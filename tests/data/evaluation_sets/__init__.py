"""Tests of albef_ds/data/evaluation_sets/."""
