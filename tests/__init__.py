"""Tests: folders mirror albef_ds and data_tools; those that cut across packages say so in their `__init__.py`."""
