"""The benchmarks of the field: official files in, official scores out, one benchmark a file."""
