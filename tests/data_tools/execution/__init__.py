"""Tests of data_tools/execution/."""
