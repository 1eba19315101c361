"""Describes images and captions: decoding, hashes, statistics."""
