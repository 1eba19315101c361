"""Tests of the pages in docs/ and of README.md: across packages, since the pages name files and commands of all."""
