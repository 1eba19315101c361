"""Tests of albef_ds/checkpoint/."""
