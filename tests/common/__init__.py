"""Tests of albef_ds/common/."""
