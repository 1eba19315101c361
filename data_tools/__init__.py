"""From raw image-text corpora to clean, deduplicated, globally shuffled shards (console script `albef-data`).

Shares with `albef_ds` the shard format and the error type, nothing else; needs no torch.
"""
