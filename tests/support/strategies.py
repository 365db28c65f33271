"""What hypothesis draws: convolution geometries, lists of tensors and activations in lanes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from hypothesis import assume
from hypothesis import strategies as st

from sparselth.ops.contract import compute_dtype
from sparselth.ops.lanes.layout import from_lanes, lanes, to_lanes
from sparselth.ops.patterns import Blocks, KernelShapes, NOfM


@dataclass(frozen=True)
class ConvCase:
    batch: int
    groups: int
    in_per_group: int
    out_per_group: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    density: float
    bias: bool
    layout: str
    plan: bool
    seed: int

    @property
    def conv(self):
        return list(self.stride), list(self.padding), list(self.dilation), self.groups

    def tensors(self, dtype=torch.float64):
        """Return x, weight, mask, bias."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        channels = self.groups * self.in_per_group
        x = draw(self.batch, channels, *self.size)
        if self.layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        elif self.layout == "strided":
            wide = draw(self.batch, channels, self.size[0], 2 * self.size[1])
            x = wide[..., ::2]
        weight = draw(self.groups * self.out_per_group, self.in_per_group, *self.kernel)
        mask = torch.rand(weight.shape, generator=generator) < self.density
        bias = draw(weight.shape[0]) if self.bias else None
        return x, weight, mask, bias


def _pair(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def conv_cases(draw, batches=(0, 1, 2, 5, 8, 17), extent=20):
    """Odd sizes, stride > kernel, padding > kernel, dilation, groups, depthwise, batch 0 and 1.

    extent: the largest height and width.
    """
    depthwise = draw(st.booleans())
    case = ConvCase(
        batch=draw(st.sampled_from(batches)),
        groups=draw(st.integers(1, 4)),
        in_per_group=1 if depthwise else draw(st.integers(1, 5)),
        out_per_group=draw(st.integers(1, 5)),
        size=draw(_pair(1, extent)),
        kernel=draw(st.one_of(st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7)]), _pair(1, 4))),
        stride=draw(_pair(1, 5)),
        padding=draw(_pair(0, 6)),
        dilation=draw(_pair(1, 3)),
        density=draw(st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0])),
        bias=draw(st.booleans()),
        layout=draw(st.sampled_from(["contiguous", "channels_last", "strided"])),
        plan=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    for axis in range(2):
        reach = case.dilation[axis] * (case.kernel[axis] - 1) + 1
        assume(case.size[axis] + 2 * case.padding[axis] >= reach)
    return case


@st.composite
def stride_1_cases(draw, batches=(0, 1, 2, 5, 8, 17), extent=20):
    """Draw what copies of boxes serve: stride 1, no groups, channels in eights, up to three taps
    an axis, as each is a turn of the kernel's loop.
    """
    case = draw(conv_cases(batches, extent))
    outs, ins = draw(st.sampled_from([(8, 8), (24, 40), (136, 16), (16, 72)]))
    density = draw(st.sampled_from([0.0, 0.002, 0.02, 1.0]))
    kernel = (min(case.kernel[0], 3), min(case.kernel[1], 3))
    changes = {"stride": (1, 1), "kernel": kernel, "out_per_group": outs, "in_per_group": ins}
    return dataclasses.replace(case, groups=1, density=density, **changes)


NARROW = (torch.float16, torch.bfloat16)
FLOATS = (*NARROW, torch.float32, torch.float64)


KINDS = ("normal", "ties", "zeros", "denormal", "nonfinite", "scales", "absorbing")


@st.composite
def tensor_lists(
    draw,
    shapes=((0,), (1,), (7,), (3, 5), (4, 3, 3, 3), (1000,), (70001,)),
    dtypes=FLOATS,
):
    """Draw (tensors, k, global_): ties, zeros of both signs, denormals, NaN and infinity, values
    that differ in scale from place to place; empty tensors and larger ones.
    """
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(dtypes))
    tensors = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from(shapes))
        kind = draw(st.sampled_from(KINDS))
        t = torch.randn(shape, generator=generator, dtype=torch.float64)
        if kind == "ties":
            t = (2 * t).round() / 2
        elif kind == "zeros":
            t = torch.where(t > 0, 0.0, -0.0)
        elif kind == "denormal":
            t = t * torch.finfo(dtype).smallest_normal / 4
        elif kind == "nonfinite":
            odd = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=torch.float64)
            where = torch.rand(shape, generator=generator) < 0.2
            t = torch.where(where, odd[torch.randint(3, shape, generator=generator)], t)
        elif kind == "absorbing":  # sums of squares in float64 depend on the order of addition
            t = torch.where(t > 0.5, 2.0**27, 1 + t.abs().round())
        elif kind == "scales":
            t = t * torch.linspace(-8, 8, t.numel(), dtype=torch.float64).exp().view(shape)
        t = t.to(dtype)
        if draw(st.booleans()) and t.dim() == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        tensors.append(t)
    global_ = draw(st.booleans())
    sizes = [t.numel() for t in tensors]
    groups = [sum(sizes)] if global_ else sizes
    k = [draw(st.one_of(st.sampled_from([0, n]), st.integers(0, n))) for n in groups]
    return tensors, k, global_


WEIGHTS = (
    *((0,), (7,), (), (5, 0, 3, 3), (3, 5), (4, 3, 3, 3), (17, 40, 3, 3), (64, 33, 1, 1)),
    *((2, 3, 5, 5), (3, 70, 2), (130, 67), (1, 5000), (3000, 2), (40, 100, 3, 3), (300, 260)),
)


@st.composite
def patterned_lists(draw, shapes=WEIGHTS, dtypes=FLOATS):
    """Draw (tensors, k, global_, pattern) of weights, k counting the groups of the pattern."""
    tensors, _, global_ = draw(tensor_lists(shapes, dtypes))
    extent = st.sampled_from([0, 1, 2, 3, 8, 16, 40])
    pattern = draw(
        st.one_of(
            st.builds(Blocks, extent, extent, st.sampled_from([0, 1, 2])),
            st.builds(lambda n, more: NOfM(n, n + more), st.integers(1, 4), st.integers(1, 9)),
            st.lists(st.sampled_from(SHAPES_OF_4), min_size=1, max_size=16, unique=True).map(
                lambda shapes: KernelShapes(tuple(shapes))
            ),
        )
    )
    if isinstance(pattern, NOfM):
        return tensors, [], global_, pattern
    groups = [pattern.groups(t.shape) for t in tensors]
    groups = [sum(groups)] if global_ else groups
    k = [draw(st.one_of(st.sampled_from([0, n]), st.integers(0, n))) for n in groups]
    return tensors, k, global_, pattern


SHAPES_OF_4 = [shape for shape in range(1 << 9) if shape.bit_count() == 4]


@dataclass(frozen=True)
class LaneCase:
    """Images for the ops on activations in lanes: dtype, sizes, and a halo per operand."""

    dtype: torch.dtype
    batch: int
    channels: int
    size: tuple[int, int]
    halos: tuple[int, ...]
    seed: int

    def operands(self, count):
        """Return `count` tensors in lanes, the i-th with the i-th halo; every third value is 0."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch, self.channels, *self.size)
        result = []
        for halo in self.halos[:count]:
            images = torch.randn(shape, generator=generator, dtype=torch.float64)
            images[torch.rand(shape, generator=generator) < 1 / 3] = 0
            result.append(to_lanes(images.to(self.dtype), lanes(self.dtype), halo))
        return result

    @property
    def computed(self):
        return compute_dtype(self.dtype)

    def per_channel(self):
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.channels, generator=generator, dtype=self.computed)


@st.composite
def lane_cases(draw, min_size=1):
    """Batches that fill their last bundle or do not, and none at all."""
    dtype = draw(st.sampled_from(FLOATS))
    lane_count = lanes(dtype)
    return LaneCase(
        dtype=dtype,
        batch=draw(st.sampled_from([0, 1, lane_count - 1, lane_count, 2 * lane_count + 1])),
        channels=draw(st.integers(1, 5)),
        size=draw(st.tuples(*[st.integers(min_size, 12)] * 2)),
        halos=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        seed=draw(st.integers(0, 2**16)),
    )


def assert_lanes(got, want, batch, halo, rtol=0.0, atol=0.0):
    """Compare the images of two tensors in lanes; halo and absent lanes must be zeros."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.is_contiguous()
    images = [from_lanes(t, batch, halo) for t in (got, want)]
    torch.testing.assert_close(*images, rtol=rtol, atol=atol, equal_nan=True)
    around = to_lanes(torch.ones_like(images[0]), got.shape[-1], halo) == 0
    assert not got[around].any(), "a value in the halo or beyond the batch"
