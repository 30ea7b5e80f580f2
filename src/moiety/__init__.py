"""Vision-language models made sparse in a way that knows what a token is."""
