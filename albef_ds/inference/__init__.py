"""Uses a trained model: the Python interface, search and export."""
