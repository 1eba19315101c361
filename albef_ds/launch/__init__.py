"""Planning and starting of runs: memory plans, node checks, Slurm jobs, local ranks."""
