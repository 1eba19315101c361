"""Tests of data_tools/matching/."""
