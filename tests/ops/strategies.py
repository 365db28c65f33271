"""What hypothesis draws: convolution geometries and lists of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import assume
from hypothesis import strategies as st


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
def conv_cases(draw):
    """Odd sizes, stride > kernel, padding > kernel, dilation, groups, depthwise, batch 0 and 1."""
    depthwise = draw(st.booleans())
    case = ConvCase(
        batch=draw(st.sampled_from([0, 1, 2, 5, 8, 17])),
        groups=draw(st.integers(1, 4)),
        in_per_group=1 if depthwise else draw(st.integers(1, 5)),
        out_per_group=draw(st.integers(1, 5)),
        size=draw(_pair(1, 20)),
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


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@st.composite
def tensor_lists(draw):
    """Draw (tensors, k, pooled): ties, signed zeros, denormals, empty and larger tensors."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(FLOATS))
    tensors = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from([(0,), (1,), (7,), (3, 5), (4, 3, 3, 3), (1000,), (70001,)]))
        kind = draw(st.sampled_from(["normal", "ties", "zeros", "denormal"]))
        t = torch.randn(shape, generator=generator, dtype=torch.float64)
        if kind == "ties":
            t = (2 * t).round() / 2
        elif kind == "zeros":
            t = torch.where(t > 0, 0.0, -0.0)
        elif kind == "denormal":
            t = t * torch.finfo(dtype).smallest_normal / 4
        t = t.to(dtype)
        if draw(st.booleans()) and t.dim() == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        tensors.append(t)
    pooled = draw(st.booleans())
    sizes = [t.numel() for t in tensors]
    groups = [sum(sizes)] if pooled else sizes
    k = [draw(st.one_of(st.sampled_from([0, n]), st.integers(0, n))) for n in groups]
    return tensors, k, pooled
