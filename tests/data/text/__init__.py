"""Tests of albef_ds/data/text/."""
