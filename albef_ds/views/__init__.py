"""Training views of pictures: RandAugment's operations, and resizing and augmenting whole batches on the model's device."""
