"""The pages of the lens: single HTML files that need no other file."""
