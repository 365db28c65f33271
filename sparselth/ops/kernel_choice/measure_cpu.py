"""Time the sparse kernels of a layer against dense ones, pass by pass, on the CPU.

The tensors are random and of the layer's shapes; what they hold decides no time. Each pass runs
its two contestants in turns, so that a machine that slows down slows both; the median of the rounds
counts, and how far their ratios disagree is kept beside it: other programs may be running. Random
state and thread count of the caller stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..bitmask import apply_bits, bits_of
from ..contract import OPS, ConvSettings, compute_dtype, output_size
from ..lanes.layout import halo, lanes

PASSES = ("forward", "grad_input", "grad_weight")

# A layer takes about four of these: three passes and the conversions. Slow layers take more, as
# _MIN_ROUNDS are needed for a fair minimum, and so do close races.
_SECONDS = 0.05
_MIN_ROUNDS, _MAX_ROUNDS = 3, 20

# Two rounds are enough for a slow pass where one side is this many times slower.
_CLEAR = 2.0
# None are after a first round that takes so many times as long as it may, and as the other side's:
# no first call costs as much. Dense gradients in float16 are hundreds of times as slow as sparse
# ones (oneDNN on an Intel Xeon, 2026-11-29).
_HOPELESS = 10.0
# Where one side is not even this many times slower, or rounds disagree by that much, the race goes
# on for several times as long.
_CLOSE, _NOISY, _LONGER = 1.3, 0.1, 3

_Run = Callable[[], object]


@dataclass(frozen=True)
class PassTiming:
    """Milliseconds of one pass; `around` is what dense costs on top between sparse passes.

    noise: how far the rounds disagreed about sparse over dense, relative.
    """

    sparse: float
    dense: float
    around: float = 0.0
    noise: float = 0.0

    @property
    def best(self) -> float:
        """Milliseconds between sparse passes, by whichever kernel is faster there."""
        return min(self.sparse, self.dense + self.around)


@dataclass(frozen=True)
class Conversions:
    """Milliseconds to take the layer's input x and output y into lanes and out of them."""

    to_x: float = 0.0
    from_x: float = 0.0
    to_y: float = 0.0
    from_y: float = 0.0


@dataclass(frozen=True)
class Timings:
    """What was measured of one layer: a timing for each of `PASSES`, and the conversions.

    host: on a GPU, for each pass the time in which the host launches it; elsewhere nothing.
    """

    passes: dict[str, PassTiming]
    conversions: Conversions = field(default_factory=Conversions)
    host: dict[str, PassTiming] = field(default_factory=dict)


class Race(NamedTuple):
    """What runs in turns took.

    medians: milliseconds of each run's median round.  noise: how far a run's time over the first
    one's typically is from its median, half the distance of the quartiles: 0.1 is a tenth.
    """

    medians: list[float]
    noise: float


def raced(runs: Sequence[_Run], seconds: float = _SECONDS) -> Race:
    """Time runs in turns for about `seconds`, after one round to warm up.

    Of two runs, a close race takes longer, and one that is clear ends sooner, a hopeless one with
    the first round; rounds that disagree are followed by more.
    """
    rounds: list[list[float]] = []
    first = _race([[_milliseconds(run) for run in runs]])
    least_hopeless = _HOPELESS * max(1e3 * seconds, min(first.medians))
    if len(runs) == 2 and max(first.medians) > least_hopeless:
        return first
    begin = time.perf_counter()
    while len(rounds) < _MAX_ROUNDS:
        rounds.append([_milliseconds(run) for run in runs])
        race = _race(rounds)
        apart = max(race.medians) / max(min(race.medians), 1e-9)
        least = 2 if len(runs) == 2 and apart > _CLEAR else _MIN_ROUNDS
        close = len(runs) == 2 and apart < _CLOSE
        longest = seconds * (_LONGER if close or race.noise > _NOISY else 1)
        if len(rounds) >= least and time.perf_counter() - begin > longest:
            break
    return race


def _race(rounds: Sequence[Sequence[float]]) -> Race:
    medians = [median(times) for times in zip(*rounds, strict=True)]
    noise = 0.0
    for place in range(1, len(medians)):
        ratios = [times[place] / max(times[0], 1e-9) for times in rounds]
        if len(ratios) > 1:
            low, middle, high = quantiles(ratios, n=4, method="inclusive")
            noise = max(noise, (high - low) / max(2 * middle, 1e-9))
    return Race(medians, noise)


def _milliseconds(run: _Run) -> float:
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


@torch.no_grad()
def measure_conv(
    x_shape: Sequence[int],
    weight: Tensor,
    mask: Tensor,
    plan: Tensor | None,
    conv: ConvSettings,
    layout: torch.memory_format = torch.contiguous_format,
) -> Timings:
    """Time a convolution's passes: sparse on lanes, dense on tensors in `layout`.

    x_shape: (N, C_in, H, W).  weight, mask: (C_out, C_in / groups, kH, kW).  plan: the mask's, or
    None.  conv: stride, padding, dilation, groups.  Dense applies the mask to the weight and to
    its gradient, as the dense path does, unless the mask keeps everything. Weights of 16 bits are
    dense's; sparse ones take them in float32.
    """
    weight, batch, input_hw = weight.detach(), x_shape[0], list(x_shape[2:])
    x = _random(x_shape, weight.dtype).contiguous(memory_format=layout)
    grad = _random(_output_shape(x_shape, weight, conv), weight.dtype)
    grad = grad.contiguous(memory_format=layout)
    x_blocks, grad_blocks = _to_lanes(x), _to_lanes(grad)
    applied = applied_by_bits(weight, mask)
    masked, wide, h = applied(weight), weight.to(compute_dtype(weight.dtype)), halo(weight.dtype)
    around, conversions = _conversions(x, grad, x_blocks, grad_blocks, weight, mask)
    contestants: dict[str, tuple[_Run, _Run]] = {
        "forward": (
            lambda: OPS.lanes_conv2d(x_blocks, batch, h, wide, mask, None, plan, *conv),
            lambda: reference.masked_conv2d(x, applied(weight), None, None, None, *conv),
        ),
        "grad_input": (
            lambda: OPS.lanes_conv2d_grad_input(
                grad_blocks, batch, h, wide, mask, plan, input_hw, *conv
            ),
            # Autograd keeps the masked weight of the forward.
            lambda: reference.convolution_backward(grad, x, masked, conv, [True, False, False]),
        ),
        "grad_weight": (
            lambda: OPS.lanes_conv2d_grad_weight(
                grad_blocks, h, x_blocks, batch, h, mask, plan, *conv
            ),
            lambda: applied(
                reference.convolution_backward(grad, x, masked, conv, [False, True, False])[1]
            ),
        ),
    }
    return Timings(_timed(contestants, around), conversions)


@torch.no_grad()
def measure_linear(rows: int, weight: Tensor, mask: Tensor, plan: Tensor | None) -> Timings:
    """Time the passes of a linear layer over x (rows, C_in); nothing is ever converted.

    weight, mask: (C_out, C_in).  plan: the mask's, or None. Weights of 16 bits are dense's, as in
    `measure_conv`.
    """
    weight = weight.detach()
    wide = weight.to(compute_dtype(weight.dtype))
    x = _random((rows, weight.shape[1]), weight.dtype)
    grad = _random((rows, weight.shape[0]), weight.dtype)
    applied = applied_by_bits(weight, mask)
    masked = applied(weight)
    contestants: dict[str, tuple[_Run, _Run]] = {
        "forward": (
            lambda: OPS.masked_linear(x, wide, mask, None, plan),
            lambda: reference.masked_linear(x, applied(weight), None, None, None),
        ),
        "grad_input": (
            lambda: OPS.masked_linear_grad_input(grad, wide, mask, plan),
            lambda: grad @ masked,
        ),
        "grad_weight": (
            lambda: OPS.masked_linear_grad_weight(grad, x, mask, plan, True),
            lambda: applied(grad.t() @ x),
        ),
    }
    (masking,), _ = raced([lambda: reference.apply_mask(weight, mask)], _SECONDS / 4)
    return Timings(_timed(contestants, dict.fromkeys(PASSES, masking)))


def applied_by_bits(weight: Tensor, mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what dense layers apply the mask with; nothing where it keeps everything."""
    if mask.all():
        return lambda values: values
    bits = bits_of(mask, weight)
    return lambda values: apply_bits(values, bits)


def _timed(
    contestants: dict[str, tuple[_Run, _Run]], around: dict[str, float]
) -> dict[str, PassTiming]:
    timed = {}
    for name, runs in contestants.items():
        (sparse, dense), noise = raced(runs)
        timed[name] = PassTiming(sparse, dense, around[name], noise)
    return timed


def _random(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    # A generator of its own: the caller's random numbers must not depend on being measured.
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.empty(tuple(shape), dtype=dtype, device="cpu").uniform_(-1, 1, generator=generator)


def _output_shape(x_shape: Sequence[int], weight: Tensor, conv: ConvSettings) -> tuple[int, ...]:
    stride, padding, dilation, _ = conv
    return (
        x_shape[0],
        weight.shape[0],
        *(
            output_size(x_shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i])
            for i in range(2)
        ),
    )


def _to_lanes(x: Tensor) -> Tensor:
    return OPS.to_lanes(x.contiguous(), lanes(x.dtype), halo(x.dtype))


def _conversions(
    x: Tensor, y: Tensor, x_blocks: Tensor, y_blocks: Tensor, weight: Tensor, mask: Tensor
) -> tuple[dict[str, float], Conversions]:
    """Time layouts and mask; return what surrounds each dense pass between sparse ones."""
    batch, h = x.shape[0], halo(x.dtype)
    (to_x, from_x, to_y, from_y, masking), _ = raced(
        [
            lambda: _to_lanes(x),
            lambda: OPS.from_lanes(x_blocks, batch, h),
            lambda: _to_lanes(y),
            lambda: OPS.from_lanes(y_blocks, batch, h),
            lambda: reference.apply_mask(weight, mask),
        ]
    )
    # A dense pass on its own is the plain oracle, which applies the mask more slowly.
    around = {
        "forward": from_x + to_y + masking,
        "grad_input": from_y + to_x + masking,
        "grad_weight": from_y + from_x + masking,
    }
    return around, Conversions(to_x, from_x, to_y, from_y)
