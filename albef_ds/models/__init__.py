"""The ALBEF model: plain single-device modules without objectives, distribution or files."""
