"""Training in stages: what learns, from which rows, at which rate."""
