"""How far a model leans on its evidence, measured over a data file."""
