"""A vision-language model from parts that somebody trained: a language model, a vision tower, and a new projector."""
