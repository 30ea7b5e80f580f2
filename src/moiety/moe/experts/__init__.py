"""Banks of experts: what every kind promises, and the plain kind that every scheme starts from."""
