"""Tests of data_tools/readers/."""
