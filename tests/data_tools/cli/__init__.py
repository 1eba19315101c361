"""Tests of data_tools/cli/."""
