"""A double of the production stack's router: its names and signatures, and little else."""
