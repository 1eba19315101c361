"""Annotation files of the downstream tasks, released JSON formats and official ones, as one record type per task."""
