"""Finding duplicates: Hamming distance, captions, features."""
