"""The shard format, which data_tools writes and training reads."""
