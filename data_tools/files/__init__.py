"""Reads and writes files: local and remote storage, direct writes, shards."""
