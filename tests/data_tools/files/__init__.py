"""Tests of data_tools/files/."""
