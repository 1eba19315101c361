"""The demonstration behind `albef-ds demo`: start the ranks, evaluate what they learned, show it on a page and a picture."""
