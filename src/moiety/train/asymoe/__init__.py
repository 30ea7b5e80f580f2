"""What scheme ``asymoe`` learns beside the task, and what is logged of it."""
