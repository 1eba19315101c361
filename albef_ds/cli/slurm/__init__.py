"""The processes of a Slurm job: those of the batch script, of each node and of each rank."""
