"""Tests of albef_ds/data/store/."""
