"""The features of searched images: kept in files, and searched exactly or approximately."""
