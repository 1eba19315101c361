"""Tests of data_tools/content/."""
