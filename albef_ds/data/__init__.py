"""From shards to batches: the order of samples, reading, decoding, augmenting, tokenising, masking.

`stream.open_stream` is the door for training, `evaluation.RetrievalSet` for evaluation.
"""
