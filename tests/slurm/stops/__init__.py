"""What the ranks of a job read at start-up so that tests can stop them: across packages, as the tests of Slurm are."""
