"""Tests of albef_ds/launch/checks/."""
