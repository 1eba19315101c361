"""Tests that cross packages: points of the released code that its golden numbers leave out, by formula with their source."""
