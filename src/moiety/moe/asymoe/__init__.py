"""The mathematics of scheme ``asymoe``: its router, its evidence, its geometry and its losses."""
