"""Samples: published data sets, rows files, and how they are divided."""
