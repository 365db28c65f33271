"""Every op with bad arguments, twice: both calls are refused, by compiled kernels, by the oracle
and by the fake kernels alike, and nothing outside is read (`make sanitize`).

The good calls are those of `support/op_samples.py`; what is made of them is drawn.
"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.op_samples import samples

from sparselth.ops.contract import ALL_SCHEMAS as SCHEMAS
from sparselth.ops.contract import arguments
from sparselth.ops.contract.arguments import check
from sparselth.ops.libraries import has_kernel
from sparselth.ops.plan import conv_plan

ops = torch.ops.sparselth
ERRORS = (RuntimeError, ValueError, IndexError)
WITH_PLAN = [n for n in SCHEMAS if n.startswith(("masked_conv2d", "masked_linear", "lanes_conv"))]


def plain(value):
    """Return arguments that nobody shares and autograd does not see."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.preserve_format)
    return [plain(v) for v in value] if isinstance(value, list) else copy.deepcopy(value)


@pytest.fixture(scope="module")
def good():
    """Op -> its good calls; those with a mask that takes a plan come with one as well."""
    torch.manual_seed(0)
    found = {}
    for name, calls in samples().items():
        found[name] = [[plain(a) for a in call] for call in calls]
        if name in WITH_PLAN and has_kernel(name, "cpu"):
            found[name] += [with_plan(name, call) for call in found[name]]
    return found


def place_of(name, argument):
    return arguments._names(name).index(argument)


def with_plan(name, call):
    call = list(call)
    groups = call[-1] if "conv2d" in name else 1
    call[place_of(name, "plan")] = conv_plan(call[place_of(name, "mask")], groups)
    return call


# --- what is made of an argument --------------------------------------------------------------


def resized(draw, t):
    """Return the tensor with another number of dimensions, or another extent along one."""
    axis = draw(st.integers(0, max(t.dim() - 1, 0)))
    how = draw(st.sampled_from(["shorter", "longer", "empty", "unsqueezed", "summed"]))
    if t.dim() == 0 or how == "unsqueezed":
        return t.unsqueeze(0)
    if how == "summed":
        return t.select(axis, 0) if t.shape[axis] else t.flatten()
    if how == "empty":
        return t.narrow(axis, 0, 0)
    if how == "shorter":
        return t.narrow(axis, 0, max(t.shape[axis] - 1, 0))
    return torch.cat([t, t.narrow(axis, 0, min(1, t.shape[axis]))], axis)


DTYPES = (torch.float16, torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64)


def bad_tensor(draw, t):
    how = draw(st.sampled_from(["resized", "resized", "dtype", "meta", "gaps"]))
    if how == "dtype":
        return t.to(draw(st.sampled_from(DTYPES)))
    if how == "meta":
        return t.to("meta")
    if how == "gaps":  # harmless, unless where a kernel would take it for contiguous
        return torch.stack([t, t], -1)[..., 0]
    return resized(draw, t)


def bad_plan(draw, plan):
    plan = plan.clone()
    how = draw(st.sampled_from(["short", "long", "garbage", "header", "tensor"]))
    if how == "short":
        return plan[: draw(st.integers(0, plan.numel() - 1))].contiguous()
    if how == "long":
        return torch.cat([plan, plan[-1:]])
    if how == "tensor":
        return bad_tensor(draw, plan)
    first, last = (0, 7) if how == "header" else (8, plan.numel() - 1)
    place = draw(st.integers(first, max(first, last)))
    plan[min(place, plan.numel() - 1)] = draw(st.sampled_from([-1, 1 << 11, 1 << 29, -(1 << 31)]))
    return plan


INTS = (-1, 0, 1, 2, 3, 7, 16, 255, 1 << 31, 1 << 62, -(1 << 63))


def bad_ints(draw, numbers):
    numbers = list(numbers)
    how = draw(st.sampled_from(["shorter", "longer", "other"]))
    if how == "shorter" or not numbers:
        return numbers[:-1]
    if how == "longer":
        return [*numbers, numbers[-1]]
    numbers[draw(st.integers(0, len(numbers) - 1))] = draw(st.sampled_from(INTS))
    return numbers


def bad_list(draw, tensors):
    tensors = list(tensors)
    how = draw(st.sampled_from(["shorter", "longer", "element", "element"]))
    if how == "shorter" or not tensors:
        return tensors[:-1]
    if how == "longer":
        return [*tensors, tensors[-1]]
    place = draw(st.integers(0, len(tensors) - 1))
    tensors[place] = bad_tensor(draw, tensors[place])
    return tensors


def bad(draw, name, value):
    if name == "plan":
        return bad_plan(draw, value)
    if isinstance(value, torch.Tensor):
        return bad_tensor(draw, value)
    if isinstance(value, list):
        tensors = value and isinstance(value[0], torch.Tensor)
        return bad_list(draw, value) if tensors else bad_ints(draw, value)
    return draw(st.sampled_from(INTS))


@st.composite
def calls(draw, good):
    """Draw an op and a call of it in which one argument, or two, differ from a good one."""
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    call = list(draw(st.sampled_from(good[name])))
    names = arguments._names(name)
    places = [i for i, v in enumerate(call) if v is not None and not isinstance(v, (bool, float))]
    for place in draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True)):
        call[place] = bad(draw, names[place], call[place])
    return name, call


# --- the properties ---------------------------------------------------------------------------


def outcome(name, call):
    """Call the op on copies; return its results, or the error."""
    call = [plain(a) for a in call]
    try:
        result = getattr(ops, name).default(*call)
    except ERRORS as error:
        return error
    written = [a for a in call if isinstance(a, list)]  # in place: z, u, weights, states
    return result, written if name.endswith("_") else None


def too_large(call):
    """Say whether a good answer would need memory that no test should take."""
    numbers = [n for a in call for n in (a if isinstance(a, list) else [a]) if type(n) is int]
    return any(n > 255 for n in numbers)


def complaint(name, call):
    """Return what `arguments.check` says about a call, "" where it fits."""
    try:
        check(name, call)
    except ValueError as error:
        return str(error)
    return ""


SEARCH = settings(
    max_examples=2500,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def test_what_does_not_fit_is_refused_twice_and_never_computed(good):
    """The name says it for every op; the oracle's answer is compared where a call was good."""
    refused = set()

    @SEARCH
    @given(st.data())
    def search(data):
        name, call = data.draw(calls(good))
        said = complaint(name, call)
        if not said and too_large(call):
            return
        first, second = outcome(name, call), outcome(name, call)
        if said:
            assert isinstance(first, ERRORS), f"{name} computed all the same: {said}"
            refused.add(name)
        if isinstance(first, ERRORS):
            assert type(first) is type(second)
            assert str(first) == str(second)
        else:
            torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)

    search()
    assert refused == set(SCHEMAS)


@pytest.mark.parametrize("name", [n for n in WITH_PLAN if has_kernel(n, "cpu")])
def test_a_stale_plan_is_refused_twice(good, name):
    """Only the compiled kernels read plans."""
    call = list(good[name][-1])
    place, mask = place_of(name, "plan"), call[place_of(name, "mask")]
    plan = call[place]
    groups = call[-1] if "conv2d" in name else 1
    others = [mask[:-groups], torch.cat([mask, mask], 1), mask[:, :-1]]
    if mask.dim() == 4:
        others.append(mask[:, :, :-1])
    stale = [conv_plan(m.contiguous(), groups) for m in others]
    stale += [plan[:0], plan[:-1], plan[:8].contiguous(), plan.long(), torch.cat([plan, plan])]
    assert mask.any()
    by_input = "grad_input" in name or name.endswith("backward")  # else it does not read that half
    for where in (9, 8 + len(mask) + 1, *[plan.numel() - 1] * by_input):  # rows, places, the end
        for value in (-1, 1 << 30):
            stale.append(plan.clone())
            stale[-1][where] = value
    for call[place] in stale:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="plan"):
                getattr(ops, name)(*call)
    call[place] = plan
    getattr(ops, name)(*call)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_good_calls_are_accepted_by_every_kernel(good, name):
    for call in good[name]:
        check(name, call)
        assert not isinstance(outcome(name, call), ERRORS)


BROADCASTS = {
    "masked_linear": lambda x, w, m, b, p: (x, w, m, b[:1], p),
    "masked_linear_grad_weight": lambda g, x, m, p, wide: (g, x[:1], m, p, wide),
    "masked_conv2d_grad_weight": lambda g, x, m, p, *conv: (g, x, m[:1], p, *conv),
}


@pytest.mark.parametrize("name", BROADCASTS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nothing_broadcasts(good, name, device):
    call = BROADCASTS[name](*good[name][0])
    call = [a.to(device) if isinstance(a, torch.Tensor) else a for a in call]
    for _ in range(2):
        with pytest.raises(ERRORS, match=name):
            getattr(ops, name)(*call)


def test_the_reference_kernels_refuse_the_same(good):
    """What a package without compiled kernels runs."""
    from sparselth.ops import reference

    for name, worse in BROADCASTS.items():
        kernel = arguments.checked(name, reference.oracle(name))
        for _ in range(2):
            with pytest.raises(ValueError, match=name):
                kernel(*worse(*good[name][0]))
        kernel(*good[name][0])


def test_an_overlap_of_more_than_its_mask_keeps_is_refused():
    a, mask = [torch.randn(100)], [torch.arange(100) < 7]
    for _ in range(2):
        with pytest.raises(ERRORS, match="keeps 7"):
            ops.weight_overlap(a, a, mask, [8])
    assert int(ops.weight_overlap(a, a, mask, [7])) == 7


@pytest.mark.parametrize("name", SCHEMAS)
def test_nothing_for_a_tensor_is_refused(good, name):
    """torch hands None on where the schema says Tensor."""
    for argument in arguments._required(name):
        call = [plain(a) for a in good[name][0]]
        call[place_of(name, argument)] = None
        with pytest.raises(ERRORS):
            getattr(ops, name)(*call)
        with pytest.raises(ValueError, match=f"{name}: {argument} must be a tensor, got None"):
            check(name, call)
