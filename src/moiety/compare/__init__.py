"""Several routing schemes side by side: same data, same steps, same activated parameters, several seeds."""

from moiety.compare.plan import compared_names, plan_schemes, settings_for
from moiety.compare.run import run_compare
from moiety.compare.summary import Comparison, Difference, Floors, Standing

__all__ = [
    "Comparison",
    "Difference",
    "Floors",
    "Standing",
    "compared_names",
    "plan_schemes",
    "run_compare",
    "settings_for",
]
