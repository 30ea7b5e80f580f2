"""Routing as it happens, gathered and kept in a file, and read back from it."""
