"""Tests of albef_ds/checkpoint/initial/."""
