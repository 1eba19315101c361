"""What a run needs of a GPU's memory, and which settings fit: arithmetic on the real model's shapes, no training."""
