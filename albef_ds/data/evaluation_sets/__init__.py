"""Image and text sets that an evaluation walks through once."""
