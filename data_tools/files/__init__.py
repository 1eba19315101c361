"""Writing and reading files: local and remote storage, direct writes, shards."""
