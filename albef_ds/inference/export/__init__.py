"""A trained model as programs that run without this package: ONNX and `torch.export`."""
