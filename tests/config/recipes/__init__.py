"""Tests of albef_ds/config/recipes/."""
