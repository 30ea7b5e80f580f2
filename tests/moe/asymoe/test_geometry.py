"""Lorentz geometry: against the ambient formulas and geoopt in float64, and at every place where such code breaks."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moiety.moe.asymoe import geometry
from moiety.moe.asymoe.experts.lorentz_maps import Maps
from moiety.moe.asymoe.geometry import (
    aperture,
    aperture_eq15,
    aperture_meru,
    centred_time,
    delta_hyperbolicity,
    distance,
    exterior_angle,
    flat_aperture,
    flat_distance,
    flat_exterior_angle,
    is_transitive,
    lift,
    log_origin,
    poincare,
    radius,
    radius_cap,
    safe_norm,
)
from tests.moe.laws import law

KAPPAS = [0.1, 1.0, 10.0]


def points(count: int, low: float, high: float, kappa: float = 1.0, dim: int = 8) -> Tensor:
    """Random points in float64 with hyperbolic radius between the two bounds."""
    direction = torch.randn(count, dim, dtype=torch.float64)
    rho = low + (high - low) * torch.rand(count, 1, dtype=torch.float64)
    return direction / direction.norm(dim=-1, keepdim=True) * rho / math.sqrt(kappa)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Lorentz product of ambient points, time first."""
    return (x[..., 1:] * y[..., 1:]).sum(dim=-1) - x[..., 0] * y[..., 0]


def ambient(z: Tensor, kappa: float) -> Tensor:
    """Exponential map at the origin, time first, straight from the definition."""
    rho = math.sqrt(kappa) * z.norm(dim=-1, keepdim=True)
    return torch.cat([rho.cosh() / math.sqrt(kappa), rho.sinh() / rho * z], dim=-1)


def ambient_distance(x: Tensor, y: Tensor, kappa: float) -> Tensor:
    return torch.acosh(-kappa * inner(ambient(x, kappa), ambient(y, kappa))) / math.sqrt(kappa)


def ambient_angle(x: Tensor, y: Tensor, kappa: float) -> Tensor:
    """Hyperbolic law of cosines on the triangle origin, x, y; the exterior angle is pi minus the one at x."""
    a, c = (math.sqrt(kappa) * point.norm(dim=-1) for point in (x, y))
    b = math.sqrt(kappa) * ambient_distance(x, y, kappa)
    return math.pi - torch.acos((a.cosh() * b.cosh() - c.cosh()) / (a.sinh() * b.sinh()))


@pytest.fixture(scope="module")
def geoopt() -> ModuleType:
    """Oracle; it scripts functions at import, which torch 2.13 calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("geoopt", reason="geoopt is absent; install moiety[dev]")


# -- T1: maps at the origin --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("bounds", [(1e-5, 1e-3), (1e-3, 0.1), (0.1, 3), (3, 9)], ids=str)
def test_log_undoes_lift(kappa: float, bounds: tuple[float, float]) -> None:
    z = points(2000, *bounds, kappa).float()
    back = log_origin(lift(z, kappa)[1], kappa)
    assert ((back - z).norm(dim=-1) / z.norm(dim=-1)).max() < 1e-6  # worst 2.9e-7


@pytest.mark.parametrize("kappa", KAPPAS)
def test_lift_is_the_exponential_map(kappa: float) -> None:
    z = points(1000, 0.01, 6, kappa)
    time, space = lift(z, kappa)
    torch.testing.assert_close(
        torch.cat([(time + 1 / math.sqrt(kappa)).unsqueeze(-1), space], dim=-1), ambient(z, kappa), rtol=1e-11, atol=0
    )
    torch.testing.assert_close(centred_time(space, kappa), time, rtol=1e-6, atol=0)  # 7.4e-8: the floor of the norm
    narrow = lift(z.float(), kappa)[0].double()
    assert (narrow / time - 1).abs().max() < 3e-6  # worst 1.3e-6; cosh - 1 has no digit left at radius 1e-4


def test_the_flat_limit() -> None:
    """Curvature to 0: space is z, time vanishes, distance and angle are Euclid's."""
    x, y, kappa = points(1000, 0.1, 3), points(1000, 0.1, 3), 1e-8
    time, space = lift(x, kappa)
    assert time.max() < 1e-3
    torch.testing.assert_close(space, x, rtol=1e-7, atol=0)
    torch.testing.assert_close(distance(x, y, kappa), (x - y).norm(dim=-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flat_distance(x, y), (x - y).norm(dim=-1))
    torch.testing.assert_close(exterior_angle(x, y, kappa), flat_exterior_angle(x, y), rtol=0, atol=1e-6)
    cosine = torch.cosine_similarity(x, y - x, dim=-1)
    torch.testing.assert_close(flat_exterior_angle(x, y, epsilon=0.0), cosine.acos(), rtol=0, atol=1e-7)


# -- oracle ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
def test_geoopt_agrees(geoopt: ModuleType, kappa: float) -> None:
    """Its k is 1/kappa in the Lorentz model; its ball has radius 1/sqrt(kappa)."""
    x, y = points(500, 0.2, 4, kappa), points(500, 0.2, 4, kappa)
    lorentz, ball = geoopt.Lorentz(k=1 / kappa), geoopt.PoincareBall(c=kappa)
    tangent = torch.nn.functional.pad(x, (1, 0))  # time 0
    above = lorentz.expmap0(tangent)
    torch.testing.assert_close(lift(x, kappa)[1], above[..., 1:], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(log_origin(above[..., 1:], kappa), lorentz.logmap0(above)[..., 1:], rtol=1e-6, atol=1e-8)
    other = lorentz.expmap0(torch.nn.functional.pad(y, (1, 0)))
    torch.testing.assert_close(distance(x, y, kappa), lorentz.dist(above, other), rtol=1e-6, atol=1e-6)
    x, y = points(500, 0.2, 2, kappa), points(500, 0.2, 2, kappa)  # nearer the rim, the ball's own digits run out
    disc = poincare(x, kappa) / math.sqrt(kappa), poincare(y, kappa) / math.sqrt(kappa)
    torch.testing.assert_close(distance(x, y, kappa), ball.dist(*disc), rtol=1e-6, atol=1e-6)


# -- T2: distance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
def test_distance_is_the_ambient_one(kappa: float) -> None:
    x, y = points(10_000, 0.1, 4, kappa), points(10_000, 0.1, 4, kappa)
    exact = ambient_distance(x, y, kappa)
    assert (distance(x, y, kappa, epsilon=0.0) / exact - 1).abs().max() < 1e-9  # worst 9e-11, the oracle's own
    assert (distance(x.float(), y.float(), kappa) / exact - 1).abs().max() < 1e-6  # worst 2.9e-7


def test_distance_is_a_metric() -> None:
    x, y, z = (points(10_000, 0, 6).float() for _ in range(3))
    assert distance(x, x, 1.0).max() <= 1e-5  # 2.0e-6
    assert torch.equal(distance(x, y, 1.0), distance(y, x, 1.0))
    assert (distance(x, z, 1.0) - distance(x, y, 1.0) - distance(y, z, 1.0)).max() <= 1e-5  # none: -0.06
    s = torch.rand(10_000, 1)  # on one ray, the triangle is flat
    assert (distance(0 * x, x, 1.0) - distance(0 * x, s * x, 1.0) - distance(s * x, x, 1.0)).max() <= 1e-5  # 1e-6


@pytest.mark.parametrize("rho", [0.5, 1, 3, 6, 10, 15])
def test_distance_of_close_points(rho: float) -> None:
    """1e-3 apart in any direction. Two rounded unit vectors would give 1 % at 6 and nonsense from 10 on."""
    x, step = points(2000, rho, rho), points(2000, 1, 1)
    radial = (step * x).sum(dim=-1, keepdim=True) * x / rho**2
    y = x + 1e-3 * (radial + (step - radial) * rho / math.sinh(rho))  # tangent steps are stretched by sinh(rho)/rho
    x, y = x.float(), y.float()  # these are the points; both sides below see the same
    exact = distance(x.double(), y.double(), 1.0, epsilon=0.0)
    assert (distance(x, y, 1.0) - exact).abs().max() < (4e-6 if rho <= 10 else 1e-5)  # worst 2.0e-6, 6.9e-6
    if rho <= 6:
        assert (distance(x, y, 1.0) / exact - 1).abs().max() < 1e-4  # worst 1.3e-5, the floor's 2e-12/d^2


# -- T3: angle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
def test_angle_is_the_ambient_one(kappa: float) -> None:
    x, y = points(10_000, 0.1, 3, kappa), points(10_000, 0.1, 3, kappa)
    exact = ambient_angle(x, y, kappa)
    found = exterior_angle(x, y, kappa, epsilon=0.0)
    assert (found - exact).abs().max() < 1e-6  # worst 3.9e-10, the oracle's own
    narrow = exterior_angle(x.float(), y.float(), kappa)
    assert (narrow - exterior_angle(x, y, kappa)).abs().max() < 1e-5  # worst 9.2e-7
    assert ((narrow >= 0) & (narrow <= math.pi + 1e-6)).all()


@pytest.mark.parametrize("gap", [0.1, 1.0])
def test_angle_on_the_axis(gap: float) -> None:
    ray, rho = points(2000, 1, 1).float(), 0.5 + 5.5 * torch.rand(2000, 1)
    near, far = ray * (rho - gap / 2), ray * (rho + gap / 2)
    assert exterior_angle(near, far, 1.0).max() < 1e-3  # 5.0e-4: the floor over sinh(gap)
    assert (math.pi - exterior_angle(far, near, 1.0)).abs().max() < 1e-3  # 5.0e-4
    assert (math.pi - exterior_angle(near, -far, 1.0)).abs().max() < 1e-3  # 2.4e-5


def test_points_on_the_axis_are_inside_every_cone() -> None:
    """At the cap of cones, too, where the cone is 1e-3 wide: the floor of the angle must be narrower."""
    ray = points(1000, 1, 1).float()
    rho = torch.linspace(0.2, 5.5, 1000).unsqueeze(-1)
    apex = rho * ray
    assert (exterior_angle(apex, apex + 0.5 * ray, 1.0) < aperture_meru(radius(apex, 1.0), 0.1)).all()


# -- T4: everywhere finite ---------------------------------------------------------------------------------------------

PAIRS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "generic": lambda v: (v, v.flip(0)),
    "equal": lambda v: (v, v.clone()),
    "same_ray": lambda v: (v, 1.5 * v),
    "opposite": lambda v: (v, -1.5 * v),
    "origin_first": lambda v: (0 * v, v),
    "origin_second": lambda v: (v, 0 * v),
    "orthogonal": lambda v: (v, torch.stack([-v[:, 1], v[:, 0], -v[:, 3], v[:, 2]], dim=1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("cap", [3.0, 6.0])
def test_values_and_gradients_are_finite(dtype: torch.dtype, pair: str, cap: float) -> None:
    """Sixteen points of each input scale; both ends of the scale lie at the origin and at the cap."""
    scales = torch.tensor([0, 1e-30, 1e-4, 1, 1e2, 1e4]).repeat_interleave(16).unsqueeze(-1)
    for kappa in KAPPAS:
        first, second = PAIRS[pair](scales * torch.randn(96, 4))
        x, y = first.to(dtype).requires_grad_(), second.to(dtype).requires_grad_()
        log_kappa = torch.tensor(math.log(kappa), requires_grad=True)
        curvature = log_kappa.exp()
        p, q = radius_cap(x, curvature, cap), radius_cap(y, curvature, cap)
        time, space = lift(p, curvature)
        outputs = [time, space, log_origin(space, curvature), centred_time(space, curvature), poincare(p, curvature)]
        outputs += [log_origin(x, curvature), centred_time(x, curvature), safe_norm(x)]
        outputs += [distance(p, q, curvature), exterior_angle(p, q, curvature)]
        outputs += [flat_distance(p, q), flat_exterior_angle(p, q)]
        outputs += [aperture(kind, radius(p, curvature), k) for kind in ("meru", "eq15") for k in (0.1, 0.5)]
        outputs += [flat_aperture(kind, safe_norm(p), 0.1) for kind in ("meru", "eq15")]
        for value in outputs:
            assert value.dtype == torch.float32
            assert value.isfinite().all()
            gradient = torch.autograd.grad(value.sum(), [x, y, log_kappa], retain_graph=True, allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in gradient)


@pytest.mark.parametrize("function", [distance, exterior_angle])
def test_gradients_are_those_of_the_formula(function: Callable[..., Tensor]) -> None:
    """Points of like and of unlike radius, which take different forms inside."""
    x, y = points(6, 0.5, 1), torch.cat([points(3, 0.5, 1), points(3, 3, 4)])
    kappa = torch.tensor(0.7, dtype=torch.float64)
    torch.autograd.gradcheck(function, [t.requires_grad_() for t in (x, y, kappa)])


def test_gradients_of_the_maps() -> None:
    z, kappa = points(4, 0.1, 2).requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for function in (lift, log_origin, centred_time, poincare, lambda z, kappa: radius_cap(z, kappa, 3.0)):
        torch.autograd.gradcheck(function, [z, kappa])


def test_autocast_changes_no_bit() -> None:
    x, y = points(50, 0.1, 6).bfloat16(), points(50, 0.1, 6).bfloat16()
    for function in (distance, exterior_angle):
        plain = function(x, y, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(function(x, y, 1.0), plain)


# -- T5: why experts work on manifold coordinates ----------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
def test_a_tangent_space_sandwich_is_the_euclidean_network(kappa: float) -> None:
    """exp, log, network, exp, log: the geometry cancels, so such an expert would be hyperbolic in name only."""
    mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
    x = torch.randn(200, 8)
    sandwich = log_origin(lift(mlp(log_origin(lift(x, kappa)[1], kappa)), kappa)[1], kappa)
    assert ((sandwich - mlp(x)).norm(dim=-1) / mlp(x).norm(dim=-1)).max() < 1e-6  # worst 4.4e-7


@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_experts_maps_are_these(kappa: float) -> None:
    """They stretch rows by factors made from squared norms; same points, same times, same logarithms."""
    maps, log_kappa, unscaled = Maps(False, 3.0, 24), torch.tensor(math.log(kappa)).double(), torch.zeros(1).double()
    u = points(200, 0.01, 20, kappa)
    squares = u.square().sum(dim=-1)
    stretch, time = maps.lift(squares, unscaled, log_kappa)
    expected_time, space = lift(radius_cap(u, kappa, 3.0), kappa)
    torch.testing.assert_close(time, expected_time)
    torch.testing.assert_close(u * stretch.unsqueeze(-1), space)
    scale = maps.inner_scale(unscaled)  # time comes divided by it, as the state itself does
    torch.testing.assert_close(maps.inner_time(squares, unscaled, log_kappa) * scale, centred_time(u * scale, kappa))
    back = maps.log_origin(squares, unscaled, unscaled, log_kappa)  # of o / b
    torch.testing.assert_close(u * back.unsqueeze(-1), log_origin(u * scale, kappa))


# -- T6: cones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cone_k", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("kind", ["meru", "eq15"])
def test_cones_are_nested_from_the_stated_radius_on(kind: geometry.ApertureKind, cone_k: float) -> None:
    """Clairaut: nested where sinh(rho) sin(psi) does not increase."""
    rho = torch.linspace(0.02, 5, 4000, dtype=torch.float64)
    clairaut = rho.sinh() * aperture(kind, rho, cone_k).sin()
    nested = is_transitive(kind, rho, cone_k)
    steps = clairaut.diff()
    assert (steps[nested[:-1]] <= 1e-12).all()
    assert (steps[~nested[1:]] > 0).all()
    star = {"meru": math.asinh(2 * cone_k), "eq15": math.asinh(1 / math.sqrt(cone_k))}[kind]
    assert rho[nested].min().item() == pytest.approx(star, abs=2e-3)  # eq15: 1.867, 1.361, 1.145


def test_cones_that_are_not_nested_break_the_order() -> None:
    """What is_transitive warns of, shown: x holds y, y holds z, x does not hold z; never from rho_star on."""

    def holds(a: Tensor, b: Tensor) -> Tensor:
        return exterior_angle(a, b, 1.0) <= aperture_eq15(radius(a, 1.0), 0.1)

    def violations(rho: float) -> int:
        x = points(1, rho, rho, dim=2).repeat(200_000, 1)
        y = x + 0.1 * torch.randn(200_000, 2, dtype=torch.float64)
        z = y + 0.2 * torch.randn(200_000, 2, dtype=torch.float64)
        return int((holds(x, y) & holds(y, z) & ~holds(x, z)).sum())

    assert violations(0.1) > 10  # 53 of 738
    assert violations(1.9) == 0


def test_apertures_at_their_ends() -> None:
    rho = torch.tensor([0.0, 0.1, 0.5, 3.0], dtype=torch.float64)
    sine = torch.tensor([1 - 1e-4, 1 - 1e-4, 0.2 / math.sinh(0.5), 0.2 / math.sinh(3)], dtype=torch.float64)
    torch.testing.assert_close(aperture_meru(rho, 0.1).sin(), sine)
    torch.testing.assert_close(aperture_eq15(rho, 0.1).sin(), 0.2 / (1 + 0.1 * rho.sinh().square()))
    assert aperture_eq15(rho, 0.1).max() <= math.asin(0.2) + 1e-12
    torch.testing.assert_close(flat_aperture("meru", rho[2:], 0.1).sin(), 0.2 / rho[2:])


def test_an_unknown_aperture_is_named() -> None:
    with pytest.raises(ValueError, match="aperture 'merru' is unknown; choose 'meru' or 'eq15'"):
        aperture("merru", torch.ones(1), 0.1)  # type: ignore[arg-type]


# -- T7: cap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("cap", [3.0, 6.0])
def test_no_radius_exceeds_the_cap(kappa: float, cap: float) -> None:
    u = torch.randn(1000, 16) * torch.logspace(-6, 12, 1000).unsqueeze(-1)
    assert radius(radius_cap(u, kappa, cap), kappa).max() <= cap * (1 + 3e-7)  # two roundings
    small = points(100, 1e-4, 1e-3, kappa)
    torch.testing.assert_close(radius_cap(small, kappa, cap), small, rtol=1e-6, atol=0)


def test_the_cap_lets_the_radius_learn() -> None:
    """Derivative above 0 up to pre-cap radius 20, exactly 0 far beyond: why the share of such tokens is logged."""
    rho = torch.linspace(0.01, 20, 2000).requires_grad_()
    ray = torch.nn.functional.normalize(torch.randn(8), dim=0)
    (slope,) = torch.autograd.grad((radius_cap(rho.unsqueeze(-1) * ray, 1.0, 3.0) * ray).sum(), rho)
    assert slope.min() > 0  # smallest 6.1e-6, exact 6.5e-6


# -- beside ------------------------------------------------------------------------------------------------------------


@law
@given(factors=st.integers(1, 5), dim=st.sampled_from([1, 2, 7]))
def test_a_curvature_for_each_factor(factors: int, dim: int) -> None:
    kappa = torch.rand(factors) + 0.1
    x, y = torch.randn(6, factors, dim), torch.randn(6, factors, dim)
    for function in (distance, exterior_angle):
        apart = [function(x[:, j], y[:, j], float(kappa[j])) for j in range(factors)]
        torch.testing.assert_close(function(x, y, kappa), torch.stack(apart, dim=1))
    time, space = lift(x, kappa)
    torch.testing.assert_close(space[:, 0], lift(x[:, 0], float(kappa[0]))[1])
    assert time.shape == (6, factors)


def test_the_disc_keeps_order_and_direction() -> None:
    z = points(500, 0.01, 9)
    disc = poincare(z, 1.0)
    assert (disc.norm(dim=-1) < 1).all()
    torch.testing.assert_close(torch.atanh(disc.norm(dim=-1)) * 2, z.norm(dim=-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.cosine_similarity(disc, z, dim=-1), torch.ones(500, dtype=torch.float64))


def test_delta_of_a_tree_is_zero_and_of_a_cycle_one() -> None:
    parent = [0] + [(node - 1) // 2 for node in range(1, 31)]
    paths = []
    for leaf in range(31):
        path = [leaf]
        while path[-1]:
            path.append(parent[path[-1]])
        paths.append(set(path))
    tree = torch.tensor([[float(len(a ^ b)) for b in paths] for a in paths])
    assert delta_hyperbolicity(tree) == 0
    index = torch.arange(8)
    cycle = (index.unsqueeze(0) - index.unsqueeze(1)).abs()
    assert delta_hyperbolicity(torch.minimum(cycle, 8 - cycle).float()) == 1
    assert delta_hyperbolicity(torch.zeros(3, 3)) == 0


@law
@given(count=st.integers(1, 7), seed=st.integers(0, 99))
def test_delta_is_the_largest_gap_of_all_quadruples(count: int, seed: int) -> None:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    d = torch.cdist(x, x)
    worst = 0.0
    for w, a, b, c in itertools.product(range(count), repeat=4):
        sums = sorted([float(d[w, a] + d[b, c]), float(d[w, b] + d[a, c]), float(d[w, c] + d[a, b])])
        worst = max(worst, (sums[2] - sums[1]) / 2)
    assert float(delta_hyperbolicity(d)) == pytest.approx(2 * worst / max(float(d.max()), 1e-300), abs=1e-12)


def test_hyperbolic_points_are_more_like_a_tree_than_flat_ones() -> None:
    near, far = points(40, 0.1, 0.1), points(40, 8, 8)
    first, second = (
        delta_hyperbolicity(distance(x.unsqueeze(0), x.unsqueeze(1), 1.0).fill_diagonal_(0)) for x in (near, far)
    )
    assert second < first / 2  # 0.08 against 0.52
