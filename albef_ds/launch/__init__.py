"""Before and around a run: memory plans, node checks, Slurm jobs, local ranks."""
