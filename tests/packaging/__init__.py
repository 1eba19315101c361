"""Tests of the wheel and the source archive: across packages, as they are installed."""
