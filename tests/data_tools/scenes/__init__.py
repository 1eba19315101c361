"""Tests of data_tools/scenes/."""
