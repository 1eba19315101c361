"""The ZeRO engine. No other package imports DeepSpeed."""
