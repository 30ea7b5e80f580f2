"""How sure a number is: intervals, permutation tests and contrasts over paired seeds."""
