"""Experts of AsyMoE once more, one token at a time, as the equations are written; nothing shared with the package."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.reference import silu

SAFE = 1e-12


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def norm(v: Tensor) -> Tensor:
    return (v.square().sum() + SAFE).sqrt()


def lift(u: Tensor, kappa: Tensor, cap: float, flat: bool) -> tuple[Tensor, Tensor]:
    """Capped tangent vector of `u` to a point: centred time, space."""
    rho = kappa.sqrt() * norm(u)
    z = u * cap * torch.tanh(rho / cap) / rho
    if flat:
        return torch.full((), 0.5, dtype=u.dtype), z
    rho = kappa.sqrt() * norm(z)
    return (torch.cosh(rho) - 1) / kappa.sqrt(), torch.sinh(rho) / rho * z


def lorentz(
    x: Tensor, expert: int, side: int, params: Mapping[str, Tensor], cap: float, flat: bool, kappas: Tensor
) -> Tensor:
    """E_S of one token; `kappas` has one entry a factor."""
    up, times = params["gate_up_proj"][expert], params["gate_up_time"][expert]
    inner = params["down_proj"].shape[2]
    space = up.shape[1]
    u = params["log_scale"][expert, side].exp() * (params["projection"][expert, side] @ x)
    points = [lift(part, k, cap, flat) for part, k in zip(u.chunk(len(kappas)), kappas, strict=True)]
    s, tau = torch.cat([point for _, point in points]), torch.stack([time for time, _ in points])
    gate, value = (math.sqrt(space) * (up @ s + times @ tau)).chunk(2)
    p = params["inner_log_scale"][expert].exp() * silu(gate) * value / math.sqrt(inner)
    kappa = kappas.log().mean().exp()
    tau2 = torch.full_like(kappa, 0.5) if flat else (1 / kappa + p.square().sum()).sqrt() - 1 / kappa.sqrt()
    o = params["down_proj"][expert] @ p + tau2 * params["down_time"][expert]
    gain = params["out_log_scale"][expert].exp()
    r = kappa.sqrt() * norm(o)
    return gain * o if flat else gain * torch.asinh(r) / r * o


def alpha(
    x: Tensor, a: Tensor, e: Tensor, expert: int, params: Mapping[str, Tensor], rich: bool, lo_hi: tuple
) -> Tensor:
    g = torch.cat([x, a, (x - a).abs(), e[None]]) if rich else x
    lo, hi = lo_hi
    return lo + (hi - lo) * torch.sigmoid(params["w_alpha"][expert] @ g + params["b_alpha"][expert])


def branches(x: Tensor, a: Tensor, expert: int, params: Mapping[str, Tensor], gated: bool) -> tuple[Tensor, Tensor]:
    """F_mem(x) and F_evd(x, a)."""
    of_x, of_a, down = (params[name][expert] for name in ("input_proj", "context_proj", "down_proj"))
    w2, w4 = down.chunk(2, dim=1)
    if not gated:
        w1, w3 = of_x.chunk(2)
        return w2 @ gelu(w1 @ x), w4 @ gelu(torch.cat([w3, of_a], dim=1) @ torch.cat([x, a]))
    gate, gate_x, up, up_x = of_x.chunk(4)
    gate_a, up_a = of_a.chunk(2)
    xa = torch.cat([x, a])
    memory = w2 @ (silu(gate @ x) * (up @ x))
    wide_gate, wide_up = torch.cat([gate_x, gate_a], dim=1), torch.cat([up_x, up_a], dim=1)
    return memory, w4 @ (silu(wide_gate @ xa) * (wide_up @ xa))
