"""The stages, a module each, and what they hand on: `scan_results`, `decisions` and `hash_files`."""
