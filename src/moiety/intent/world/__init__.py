"""A small spoken world: made clips whose words alone leave the intent open."""
