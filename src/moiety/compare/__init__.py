"""Several routing schemes side by side: same data, same steps, same activated parameters, several seeds."""

from moiety.compare.plan import plan_schemes
from moiety.compare.run import run_compare
from moiety.compare.summary import Comparison
from moiety.compare.table import markdown
from moiety.compare.variants import compared_names, settings_for
from moiety.compare.verdicts import Difference, Floors, Standing
from moiety.stats.contrasts import Contrast

__all__ = [
    "Comparison",
    "Contrast",
    "Difference",
    "Floors",
    "Standing",
    "compared_names",
    "markdown",
    "plan_schemes",
    "run_compare",
    "settings_for",
]
