"""Exports a trained model as ONNX and `torch.export` programs, which run without this package."""
