"""Tests of albef_ds/cli/demo/."""
