"""Every kernel equals the plain loop, in outputs and all gradients, and keeps its promises on memory and syncs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from moiety.moe.dispatch import dispatch
from moiety.moe.experts.kinds import FFNExperts
from moiety.moe.kernels import KERNELS, choose_kernel, gated_experts, reference_experts
from moiety.moe.kernels.activation import ACTIVATIONS
from moiety.moe.kernels.products import say_half_is_slow
from moiety.moe.layer import ModalityMoE
from moiety.recipe.recipe import MoESettings
from tests.moe.laws import law

Tensors = list[Tensor]
FORMS = ("loop", "grouped")


def problem(
    tokens: int, experts: int, top_k: int, hidden: int, ffn: int, dtype: torch.dtype, used: int | None = None
) -> tuple[Tensor, Tensors]:
    """Index with some slots without expert, and leaves: input, weights (some exactly 0), both banks."""
    index = torch.rand(tokens, used or experts).topk(top_k).indices
    index = index.masked_fill(torch.rand(tokens, top_k) < 0.2, experts)
    weights = torch.rand(tokens, top_k).masked_fill(torch.rand(tokens, top_k) < 0.2, 0).masked_fill(index == experts, 0)
    banks = torch.randn(experts, 2 * ffn, hidden) / hidden**0.5, torch.randn(experts, hidden, ffn) / ffn**0.5
    leaves = [t.to(dtype).requires_grad_() for t in (torch.randn(tokens, hidden), weights, *banks)]
    return index, leaves


def run(form: str, index: Tensor, leaves: Tensors, act: str = "silu", probe: Tensor | None = None) -> Tensors:
    """Output and gradients."""
    x, weights, gate_up, down = leaves
    if form == "reference":
        y = reference_experts(x, index, weights, gate_up, down, ACTIVATIONS[act].forward)
    else:
        y = gated_experts(x, weights, gate_up, down, dispatch(index, len(gate_up)), act, form)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) if probe is None else probe
    return [y.detach(), *torch.autograd.grad(y, leaves, probe.bfloat16().to(y.dtype))]  # exact in every dtype


def truth(index: Tensor, leaves: Tensors, act: str = "silu", probe: Tensor | None = None) -> Tensors:
    return run("reference", index, [t.detach().double().requires_grad_() for t in leaves], act, probe)


def assert_near(found: Tensors, expected: Tensors, relative: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() <= relative * theirs.norm().clamp(min=1e-12)


@pytest.mark.parametrize("form", FORMS)
# worst measured over these cases: float32 3e-7, bfloat16 6e-3
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@law
@given(
    tokens=st.sampled_from([1, 2, 17]), experts=st.sampled_from([1, 2, 4, 7]), act=st.sampled_from(sorted(ACTIVATIONS))
)
def test_equals_the_float64_loop(
    form: str, dtype: torch.dtype, relative: float, tokens: int, experts: int, act: str
) -> None:
    torch.manual_seed(tokens * 100 + experts)
    index, leaves = problem(tokens, experts, min(2, experts), 8, 16, dtype)
    assert_near(run(form, index, leaves, act), truth(index, leaves, act), relative)


def test_loop_form_passes_gradcheck() -> None:
    """In float64, which grouped_mm refuses."""
    index, leaves = problem(4, 3, 2, 3, 5, torch.float64, used=2)
    slots = dispatch(index, 3)
    for act in ("silu", "gelu_pytorch_tanh", "gelu"):
        assert gradcheck(lambda *t, act=act: gated_experts(*t, slots, act, "loop"), leaves)


@pytest.mark.parametrize("form", FORMS)
def test_idle_expert_gets_a_gradient_of_zero(form: str) -> None:
    index, leaves = problem(9, 4, 2, 8, 16, torch.float32, used=3)
    *_, gate_up, down = run(form, index, leaves)
    assert (gate_up[3] == 0).all()
    assert (down[3] == 0).all()
    assert gate_up[:3].any(dim=-1).any(dim=-1).all()


@pytest.mark.parametrize("form", [*FORMS, "reference"])
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_nothing_but_padding(form: str, tokens: int) -> None:
    _, leaves = problem(tokens, 2, 1, 8, 16, torch.float32)
    experts = FFNExperts(2, 8, 16, kernel=form)
    y = experts(leaves[0], torch.full((tokens, 1), 2), leaves[1] * 0)
    assert y.shape == (tokens, 8)
    y.sum().backward()
    assert not y.any()
    assert not leaves[0].grad.any()
    assert (experts.gate_up_proj.grad == 0).all()
    assert (experts.down_proj.grad == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_expert_are_never_read(form: str) -> None:
    """Slots without expert belong to tokens that are NaN here; grouped_mm leaves their rows uninitialised."""
    index, leaves = problem(12, 3, 2, 8, 16, torch.float32)
    padding = torch.arange(12) % 3 == 0
    index = index.masked_fill(padding[:, None], 3)
    clean = [t.detach().clone() for t in leaves]
    clean[1][index == 3] = 0
    poisoned = [clean[0].masked_fill(padding[:, None], float("nan")), *clean[1:]]
    probe = torch.randn(12, 8)
    expected = run(form, index, [t.requires_grad_() for t in clean], probe=probe)
    found = run(
        form,
        index,
        [t.requires_grad_() for t in poisoned],
        probe=probe.masked_fill(padding[:, None], float("nan")),
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.equal(theirs)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_a_plain_sum(form: str) -> None:
    """Its stride is 0, which grouped_mm refuses."""
    index, leaves = problem(6, 3, 2, 8, 16, torch.float32)
    slots = dispatch(index, 3)
    gated_experts(*leaves, slots, "silu", form).sum().backward()
    expected = truth(index, leaves, probe=torch.ones(6, 8))
    assert_near([t.grad for t in leaves], expected[1:], 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_repeated_runs_are_bit_equal(form: str) -> None:
    index, leaves = problem(33, 4, 2, 8, 16, torch.bfloat16)
    for first, second in zip(run(form, index, leaves), run(form, index, leaves), strict=True):
        assert first.equal(second)


class Counter(TorchDispatchMode):
    """Which operators ran, and how many bytes they returned."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        if not func.is_view and name != "detach":
            made = [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in made)
        return out


def products(form: str, frozen: tuple[int, ...]) -> int:
    """Matrix products in backward when the leaves numbered in `frozen` want no gradient."""
    index, leaves = problem(8, 2, 1, 8, 16, torch.float32)
    for leaf in frozen:
        leaves[leaf].requires_grad_(False)
    y = gated_experts(*leaves, dispatch(index, 2), "silu", form)
    with Counter() as counter:
        torch.autograd.grad(y.sum(), [t for t in leaves if t.requires_grad])
    return sum(count for name, count in counter.calls.items() if name in ("mm", "_grouped_mm"))


@pytest.mark.parametrize(("form", "unit"), [("loop", 2), ("grouped", 1)])
def test_frozen_experts_cost_no_product(form: str, unit: int) -> None:
    assert products(form, ()) == 4 * unit
    assert products(form, (2, 3)) == 2 * unit
    assert products(form, (0, 2, 3)) == unit


@pytest.mark.parametrize("form", FORMS)
def test_only_input_and_pre_activations_are_saved(form: str) -> None:
    """At most 1.02 times the formula: pre-activations, and 24 bytes a slot for the slots and the weights."""
    index, leaves = problem(512, 4, 2, 64, 256, torch.bfloat16)
    known, saved = {t.data_ptr() for t in leaves}, {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    slots = dispatch(index, 4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = gated_experts(*leaves, slots, "silu", form)
    slots = index.numel()
    assert y.requires_grad
    assert sum(saved.values()) <= 1.02 * (2 * 2 * slots * 256 + 24 * slots)


@pytest.mark.parametrize("form", [*FORMS, "reference"])
def test_backward_does_not_grow_with_the_number_of_experts(form: str) -> None:
    """Indexing a stacked parameter under autograd writes a whole bank for each expert."""

    def written(experts: int) -> int:
        index, leaves = problem(64, experts, 2, 16, 512 // experts, torch.float32)
        x, weights, gate_up, down = leaves
        if form == "reference":
            y = reference_experts(x, index, weights, gate_up, down, F.silu)
        else:
            y = gated_experts(*leaves, dispatch(index, experts), "silu", form)
        with Counter() as counter:
            torch.autograd.grad(y.sum(), leaves)
        return counter.bytes

    assert written(64 if form != "reference" else 16) <= 1.1 * written(8)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "reference"])
def test_autocast_computes_in_its_dtype(kernel: str) -> None:
    experts = FFNExperts(3, 16, 32, kernel=kernel)
    index, (x, weights, *_) = problem(7, 3, 2, 16, 32, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = experts(x, index, weights)
    half = FFNExperts(3, 16, 32, kernel=kernel).to(torch.bfloat16)
    half.load_state_dict(experts.state_dict())
    assert y.dtype == torch.float32
    assert y.equal(half(x.bfloat16(), index, weights).float())
    y.sum().backward()
    assert experts.gate_up_proj.grad.dtype == x.grad.dtype == torch.float32


def test_weights_may_be_wider_than_the_input() -> None:
    index, leaves = problem(7, 3, 2, 16, 32, torch.bfloat16)
    leaves[1] = leaves[1].detach().float().requires_grad_()
    found = run("grouped", index, leaves)
    assert found[2].dtype == torch.float32
    assert_near(found, truth(index, leaves), 1e-2)


WIDTHS: list[tuple[torch.dtype, int, int, str]] = [
    (torch.float32, 64, 64, "grouped"),
    (torch.float32, 62, 64, "loop"),
    (torch.float32, 64, 63, "loop"),
    (torch.bfloat16, 64, 64, "grouped"),
    (torch.bfloat16, 33, 64, "loop"),
    (torch.bfloat16, 64, 60, "loop"),
    (torch.float64, 64, 64, "loop"),
]


@pytest.mark.parametrize(("dtype", "hidden", "ffn", "expected"), WIDTHS)
def test_auto_takes_what_grouped_mm_allows(dtype: torch.dtype, hidden: int, ffn: int, expected: str) -> None:
    index, leaves = problem(5, 3, 2, hidden, ffn, dtype)
    assert choose_kernel("auto", "silu", leaves[0], dispatch(index, 3), leaves[2]) == expected
    experts = FFNExperts(3, hidden, ffn).to(dtype)
    y = experts(leaves[0], index, leaves[1])
    expected_y = reference_experts(
        leaves[0].double(), index, leaves[1].double(), experts.gate_up_proj.double(), experts.down_proj.double(), F.silu
    )
    assert_near([y.detach()], [expected_y.detach()], 1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_auto_takes_the_loop_for_large_experts_on_cpu() -> None:
    with FakeTensorMode():
        x, gate_up = torch.empty(4096, 512, dtype=torch.bfloat16), torch.empty(8, 4096, 512, dtype=torch.bfloat16)
        assert choose_kernel("auto", "silu", x, dispatch(torch.zeros(4096, 2).long(), 8), gate_up) == "loop"
        assert choose_kernel("auto", "silu", x, dispatch(torch.zeros(512, 2).long(), 8), gate_up) == "grouped"


@pytest.mark.parametrize(("dtype", "hidden", "why"), [(torch.float64, 8, "no float64"), (torch.float32, 6, "of 4")])
def test_grouped_by_name_says_why_it_cannot(dtype: torch.dtype, hidden: int, why: str) -> None:
    experts = FFNExperts(2, hidden, 8, kernel="grouped").to(dtype)
    with pytest.raises(ValueError, match=f"kernel 'grouped' cannot run: .*{why}.*; use 'auto' or 'loop'"):
        experts(torch.zeros(1, hidden, dtype=dtype), torch.zeros(1, 1).long(), torch.ones(1, 1, dtype=dtype))


def test_a_callable_activation_runs_the_reference() -> None:
    square: Callable[[Tensor], Tensor] = torch.square
    experts = FFNExperts(2, 8, 8, act=square)
    x, index = torch.randn(3, 8), torch.tensor([[0], [1], [0]])
    assert choose_kernel("auto", square, x, dispatch(index, 2), experts.gate_up_proj) == "reference"
    gate, up = F.linear(x[1], experts.gate_up_proj[1]).chunk(2)
    torch.testing.assert_close(experts(x, index, torch.ones(3, 1))[1], experts.down_proj[1] @ (gate**2 * up))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"activation 'sillu' is unknown; known: .*; did you mean 'silu'\?; or give"):
        FFNExperts(2, 8, 8, act="sillu")
    with pytest.raises(ValueError, match="kernel 'fast' is unknown; known: auto, loop, grouped, reference"):
        FFNExperts(2, 8, 8, kernel="fast")


def test_a_layer_never_waits_for_the_device() -> None:
    """D15: under FakeTensorMode every read of a value raises; and each expert's products run once."""
    layer = ModalityMoE(16, 32, MoESettings(scheme="moiie")).to(torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(2, 6, 16, dtype=torch.bfloat16, requires_grad=True)
        with Counter() as forward:
            y = layer(x, torch.zeros(2, 6, dtype=torch.int64))
        with Counter() as backward:
            y.sum().backward()
    assert forward.calls["_grouped_mm"] == 2
    assert forward.calls["sort"] == 1
    assert backward.calls["_grouped_mm"] == 4
    assert not {"_local_scalar_dense", "nonzero", "bincount"} & (forward.calls.keys() | backward.calls.keys())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
def test_experts_compile_to_one_graph(dtype: torch.dtype) -> None:
    index, leaves = problem(8, 3, 2, 16, 32, dtype)
    slots = dispatch(index, 3)
    eager = run("grouped", index, leaves)
    torch._dynamo.reset()
    compiled = torch.compile(gated_experts, backend="aot_eager", fullgraph=True)
    y = compiled(*leaves, slots, "silu", "grouped")
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    near = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert_near([y.detach(), *torch.autograd.grad(y, leaves, probe.to(dtype))], eager, near)


def test_half_precision_on_cpu_is_said_to_be_slow_once(caplog: pytest.LogCaptureFixture) -> None:
    say_half_is_slow.cache_clear()
    experts = FFNExperts(2, 8, 8).to(torch.float16)
    x, index, weights = torch.randn(3, 8).half(), torch.zeros(3, 1).long(), torch.ones(3, 1).half()
    with caplog.at_level("WARNING"):
        first, second = experts(x, index, weights), experts(x, index, weights)
    assert first.equal(second)
    assert [record.getMessage() for record in caplog.records] == [
        "float16 experts run about ten times slower on CPU than bfloat16; use bfloat16"
    ]
