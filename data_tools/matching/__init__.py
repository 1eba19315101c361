"""Finding duplicates: equal and similar images, captions, features; all pairs within a Hamming distance."""
