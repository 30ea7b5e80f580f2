"""The pages of the lens: HTML files that need nothing beside them."""
