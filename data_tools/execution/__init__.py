"""How a stage runs: the folder of its results with the marks of what is done, and its processes."""
