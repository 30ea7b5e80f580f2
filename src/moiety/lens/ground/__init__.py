"""How much a model relies on its evidence, measured over a data file."""
