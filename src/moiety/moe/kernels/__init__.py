"""Ways to run a bank of gated feed-forward experts. All give the same result.

=========== ======================================================================================================
reference   plain loop with ordinary autograd; any activation, and quantised experts
loop        one autograd function, one product for each expert, written into preallocated rows; any dtype and width
grouped     the same function with one ``torch.nn.functional.grouped_mm`` for all experts; the host never waits
auto        grouped where it can run, except on CPU for large experts, where the loop is faster
=========== ======================================================================================================

:mod:`moiety.moe.kernels.products` contains both forms of the products and chooses between them.
"""

from __future__ import annotations

from moiety.moe.kernels.gated import choose_kernel, gated_experts
from moiety.moe.kernels.products import is_packed
from moiety.moe.kernels.reference import reference_experts

KERNELS = ("auto", "loop", "grouped", "reference")

__all__ = ["KERNELS", "choose_kernel", "gated_experts", "is_packed", "reference_experts"]
