"""From a caption to token ids: cleaning, WordPiece, masking."""
