"""Makes token ids from captions: cleaning, WordPiece, masking."""
