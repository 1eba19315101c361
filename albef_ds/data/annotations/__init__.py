"""Reads annotation files of the downstream tasks, in released and official formats, into one record type per task."""
