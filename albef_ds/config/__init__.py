"""Settings: the schema, reading and writing them, and what the command line may change."""
