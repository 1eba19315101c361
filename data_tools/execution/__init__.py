"""How a stage runs: its folder, its processes, its completion marks."""
