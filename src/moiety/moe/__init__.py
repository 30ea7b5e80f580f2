"""The mathematics of the sparse layer: routing, dispatch, experts, combine and auxiliary losses."""
