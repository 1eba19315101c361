"""What `albef-ds doctor` looks at: this machine and what is installed on it, before there is a run. A run's own needs (its
shards, its folder, the other nodes) are preflight's."""
