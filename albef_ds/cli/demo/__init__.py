"""`albef-ds demo`: trains, evaluates the model on held-out concepts, and shows the results on a page and an image."""
