"""Turns raw image-text corpora into clean, deduplicated, globally shuffled shards (console script `albef-data`).

Needs no torch. Of `albef_ds` it uses the shards, errors, atomic writing, exit codes and the progress callback.
"""
