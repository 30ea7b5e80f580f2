"""Published scoring rules that several benchmarks share."""
