"""From the bytes of an image file to the tensor that the model takes: decoding, crops, RandAugment, normalisation."""
