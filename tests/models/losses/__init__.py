"""Tests of albef_ds/models/losses/."""
