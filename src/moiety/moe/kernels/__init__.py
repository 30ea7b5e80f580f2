"""Ways to run a bank of gated feed-forward experts, all with the same result.

=========== ======================================================================================================
reference   plain loop, ordinary autograd, any activation
loop        one autograd function, a product per expert into preallocated rows; any dtype and width
grouped     the same function around ``torch.nn.functional.grouped_mm``; no host sync
auto        grouped where it is allowed, except on CPU for large experts, where the loop is faster
=========== ======================================================================================================
"""

from __future__ import annotations

from moiety.moe.kernels.choice import KERNELS, choose_kernel
from moiety.moe.kernels.gated import gated_experts
from moiety.moe.kernels.reference import reference_experts

__all__ = ["KERNELS", "choose_kernel", "gated_experts", "reference_experts"]
