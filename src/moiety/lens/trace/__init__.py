"""Traces: routing is recorded while a model answers, written to a file, and read from it again."""
