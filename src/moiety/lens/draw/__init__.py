"""The pictures of the lens: numbers go in, one picture comes out."""
