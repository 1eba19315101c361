"""The ALBEF model and its losses: single-device code without distribution or files."""
