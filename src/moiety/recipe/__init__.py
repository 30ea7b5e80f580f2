"""Every key that a recipe may hold: its name, its type, its default and what it means."""
