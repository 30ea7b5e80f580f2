"""The losses that scheme ``asymoe`` adds to the task, and the numbers of it that are logged."""
