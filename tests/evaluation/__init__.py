"""Tests of albef_ds/evaluation/."""
