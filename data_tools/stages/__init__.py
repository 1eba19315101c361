"""The stages, one module each, and the data passed between them: `scan_results`, `decisions` and `hash_files`."""
