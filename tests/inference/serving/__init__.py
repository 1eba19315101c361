"""Tests of albef_ds/inference/serving/."""
