"""Files that moiety writes and reads again: whole files and folders, records of runs, pages, and provenance."""
