"""What scheme ``asymoe`` needs to know of a Hugging Face model: its evidence, its turns and its cache."""
