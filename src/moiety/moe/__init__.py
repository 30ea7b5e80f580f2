"""The mathematics of the sparse layer: route, dispatch, compute, combine, and what it costs to be unfair."""
