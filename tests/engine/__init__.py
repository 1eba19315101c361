"""Tests of albef_ds/engine/."""
