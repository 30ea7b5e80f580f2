"""The mathematics of the sparse layer: routing, dispatch, experts, combination, and the cost of uneven routing."""
