"""Tests of albef_ds/tasks/."""
