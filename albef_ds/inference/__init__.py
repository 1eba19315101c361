"""Using a trained model: the Python interface, search, export."""
