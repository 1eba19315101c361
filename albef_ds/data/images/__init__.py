"""Makes the model's input tensor from the bytes of an image file: decoding, crops, RandAugment, normalisation."""
