"""Tests of data_tools/stages/."""
