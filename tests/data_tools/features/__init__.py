"""Tests of data_tools/features/."""
