"""The shard format that data_tools writes and training reads. Imports nothing."""
