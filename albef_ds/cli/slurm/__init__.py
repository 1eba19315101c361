"""The processes of a Slurm job: batch script, one per node, one per rank."""
