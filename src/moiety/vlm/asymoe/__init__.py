"""What scheme ``asymoe`` reads from a Hugging Face model: evidence, turns and the key-value cache."""
