"""What is written to disk and read again: files that are whole or absent, run folders, pages, provenance."""
