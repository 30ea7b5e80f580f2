"""The lens: ask a model about one picture and see which expert read what.

:func:`inspect_image` writes a folder with pictures, numbers, a trace and one page; :func:`inspect_traces` makes such a
page of saved traces of whole runs; :func:`tinted_picture` draws a single layer for a report;
:mod:`moiety.lens.ground.metrics` measures over a data file how much a model relies on its evidence.
"""

from moiety.lens.inspection import LensReport, inspect_beside, inspect_image, inspect_traces, tinted_picture
from moiety.lens.numbers import RoutingNumbers, numbers_of
from moiety.lens.trace.file import SavedTrace, write_trace
from moiety.lens.trace.observe import Observation, observe
from moiety.lens.trace.reader import read_trace

__all__ = [
    "LensReport",
    "Observation",
    "RoutingNumbers",
    "SavedTrace",
    "inspect_beside",
    "inspect_image",
    "inspect_traces",
    "numbers_of",
    "observe",
    "read_trace",
    "tinted_picture",
    "write_trace",
]
