"""Tests of albef_ds/checkpoint/tensor_files/."""
