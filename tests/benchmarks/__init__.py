"""Tests of the scripts in benchmarks/: across packages, since a benchmark runs several."""
