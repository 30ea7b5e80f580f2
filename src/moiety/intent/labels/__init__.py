"""What each label means, in sentences, and who wrote them."""
