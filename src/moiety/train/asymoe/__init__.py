"""The losses that scheme ``asymoe`` adds to the task, and its numbers in the log."""
