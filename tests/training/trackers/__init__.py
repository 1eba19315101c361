"""Tests of albef_ds/training/trackers/."""
