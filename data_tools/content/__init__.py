"""What a picture and a caption hold: decoding, hashes, statistics."""
