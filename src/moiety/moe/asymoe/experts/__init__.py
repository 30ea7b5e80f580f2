"""The kinds of experts that scheme ``asymoe`` brings: hyperbolic ones and evidence-priority ones."""
