"""The figures of the lens: each function takes numbers and writes one picture."""
