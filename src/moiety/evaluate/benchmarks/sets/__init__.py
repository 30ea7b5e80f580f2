"""The benchmarks of the field, one file for each benchmark."""
