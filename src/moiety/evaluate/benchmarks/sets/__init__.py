"""The benchmarks of the field, one benchmark a file."""
