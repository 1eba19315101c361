"""Tests of albef_ds/metrics/."""
