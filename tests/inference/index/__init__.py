"""Tests of albef_ds/inference/index/."""
