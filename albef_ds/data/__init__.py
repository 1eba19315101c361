"""Makes batches from shards and annotation files: sample order, reading, decoding, augmentation, tokenisation, masking.

Training starts at `stream.open.open_stream`, evaluation at the classes of `evaluation_sets`.
"""
