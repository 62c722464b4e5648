"""Where tokens are made: options, rows, and a loop per mode, over the backend interface and nothing else."""
