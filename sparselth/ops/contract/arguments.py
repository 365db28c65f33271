"""What an op is given, compared with its other arguments: the rules of every kernel in Python.

The ops are reachable as `torch.ops.sparselth.*`, past the public functions. `checked` stands before
the reference and the Triton kernels, `check` in every fake kernel; the compiled kernels have the
same rules in csrc/common/checks.h. Only shapes, dtypes and devices are looked at, never values, and
plans only for their dtype: these kernels do not read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from .lane_arguments import check_lanes
from .list_arguments import Named, check_lists_of, failure

# Tensor -> what its extents are called. A name that comes twice is one size; N images lie in B
# bundles of L lanes, and primes are extents with a halo.
_WEIGHT = {"weight": "O I R S", "mask": "O I R S"}
_FORWARD = {"input": "N C H W", **_WEIGHT, "bias": "O"}
_GRAD_INPUT = {"grad_output": "N O P Q", **_WEIGHT}
_GRAD_WEIGHT = {"grad_output": "N O P Q", "input": "N C H W", "mask": "O I R S"}
_LANE_INPUT, _LANE_GRAD = "B C H' W' L", "B O P' Q' L"
_PER_CHANNEL = (
    *("weight", "bias", "running_mean", "running_var", "mean", "invstd", "scale", "shift"),
    *("a_scale", "a_shift", "b_scale", "b_shift", "gate_scale", "gate_shift"),
)
_STATISTICS = dict.fromkeys(_PER_CHANNEL, "C")
_SHAPES: dict[str, dict[str, str]] = {
    "masked_conv2d": _FORWARD,
    "masked_conv2d_relu": _FORWARD,
    "masked_conv2d_grad_input": _GRAD_INPUT,
    "masked_conv2d_grad_weight": _GRAD_WEIGHT,
    "unstructured_conv2d": _FORWARD,
    "unstructured_conv2d_grad_input": _GRAD_INPUT,
    "unstructured_conv2d_grad_weight": _GRAD_WEIGHT,
    "column_vector_conv2d": _FORWARD,
    "column_vector_conv2d_grad_input": _GRAD_INPUT,
    "halo_block_conv2d": _FORWARD,
    "halo_block_conv2d_grad_input": _GRAD_INPUT,
    "halo_block_conv2d_grad_weight": _GRAD_WEIGHT,
    "masked_linear": {"input": "N I", "weight": "O I", "mask": "O I", "bias": "O"},
    "masked_linear_grad_input": {"grad_output": "N O", "weight": "O I", "mask": "O I"},
    "masked_linear_grad_weight": {"grad_output": "N O", "input": "N I", "mask": "O I"},
    "to_lanes": {"input": "N C H W"},
    "from_lanes": {"input": _LANE_INPUT},
    "lanes_conv2d": {"input": _LANE_INPUT, **_WEIGHT, "bias": "O"},
    "lanes_conv2d_grad_input": {"grad_output": _LANE_GRAD, **_WEIGHT},
    "lanes_conv2d_grad_weight": {
        "grad_output": _LANE_GRAD,
        "input": _LANE_INPUT,
        "mask": "O I R S",
    },
    "lanes_conv2d_backward": {"grad_output": _LANE_GRAD, "input": _LANE_INPUT, **_WEIGHT},
    "lanes_fused_conv2d": {
        "a": _LANE_INPUT,
        "b": "B C H'' W'' L",
        **_STATISTICS,
        **_WEIGHT,
        "bias": "O",
    },
    "lanes_fused_conv2d_backward": {
        "grad_output": _LANE_GRAD,
        "a": _LANE_INPUT,
        **_STATISTICS,
        **_WEIGHT,
    },
    "lanes_batch_norm": {"input": _LANE_INPUT, **_STATISTICS, "moments": "C 2"},
    "lanes_scale_add_relu": {"a": "B C H' W' L", "b": "B C H'' W'' L", **_STATISTICS},
    "lanes_relu_backward_add": {
        "grad": "B C H' W' L",
        "gate": "B C H'' W'' L",
        "other": "B C H''' W''' L",
    },
    "lanes_batch_norm_backward": {
        "grad": "B C H' W' L",
        "gate": "B C H'' W'' L",
        "input": "B C H''' W''' L",
        **_STATISTICS,
    },
    "lanes_max_pool2d": {"input": _LANE_INPUT, **_STATISTICS},
    "lanes_max_pool2d_backward": {"grad": "B C P' Q' L", "position": "B C P Q L"},
}

_NOT_EMPTY = frozenset(op for op in _SHAPES if op.startswith("lanes_fused"))

_IN_LANES = frozenset(op for op in _SHAPES if op.startswith("lanes_"))

# Tensors that are not of the dtype of the others.
_DTYPES = {
    "mask": torch.bool,
    "plan": torch.int32,
    "position": torch.uint8,
    "moments": torch.float64,
}

# Of ops in lanes: they are of what the activations are computed in. Of linear ops they may be.
_COMPUTED = frozenset({"weight", "bias", *_PER_CHANNEL})
_MAY_BE_COMPUTED = frozenset(op for op in _SHAPES if op.startswith("masked_linear"))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what activations are computed in, and what is not an activation may be stored in.

    dtype: of the activations.  Returns float32 for those of 16 bits, `dtype` itself for others.
    """
    return torch.float32 if dtype.itemsize < 4 else dtype


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the output extent of a convolution along one axis."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@cache
def _names(op: str) -> tuple[str, ...]:
    schema = getattr(torch.ops.sparselth, op).default._schema
    return tuple(argument.name for argument in schema.arguments)


@cache
def _required(op: str) -> tuple[str, ...]:
    """Return the arguments that must be tensors: torch hands None on for those, too."""
    schema = getattr(torch.ops.sparselth, op).default._schema
    return tuple(a.name for a in schema.arguments if a.type.kind() == "TensorType")


def check(op: str, arguments: Sequence[Any]) -> None:
    """Compare an op's arguments with each other.

    Raises SparselthError where they do not fit, before anything is read or written.
    """
    values = dict(zip(_names(op), arguments, strict=True))
    for name in _required(op):
        if values[name] is None:
            raise failure(op, f"{name} must be a tensor, got None")
    if op in _SHAPES:
        sizes = _unified(op, values)
        check_lanes(op, values, _SHAPES[op], sizes)
        _check_geometry(op, values, sizes)
    else:
        check_lists_of(op, values)


_ACCEPTED: set[tuple] = set()
_MOST_ACCEPTED = 4096


def checked(op: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return `kernel` behind `check`. What was accepted once is not compared again."""

    @wraps(kernel)
    def run(*arguments: Any) -> Any:
        if op not in _SHAPES:
            check(op, arguments)
            return kernel(*arguments)
        key = (op, *map(_facts, arguments))
        if key not in _ACCEPTED:
            check(op, arguments)
            if len(_ACCEPTED) >= _MOST_ACCEPTED:
                _ACCEPTED.clear()
            _ACCEPTED.add(key)
        return kernel(*arguments)

    return run


def _facts(argument: Any) -> Any:
    """Return all of an argument that `check` looks at."""
    if isinstance(argument, Tensor):
        return argument.shape, argument.dtype, argument.device
    return tuple(argument) if isinstance(argument, list) else argument


# --- tensors of one op ------------------------------------------------------------------------


def _unified(op: str, given: Named) -> dict[str, int]:
    """Check shapes, dtypes and devices of an op's tensors; return its sizes by name."""
    sizes: dict[str, int] = {}
    first: Tensor | None = None
    for name, value in given.items():
        if not isinstance(value, Tensor):
            continue
        first = value if first is None else first
        _check_kind(op, name, value, first)
        if name not in _SHAPES[op]:
            continue  # a plan
        extents = _SHAPES[op][name].split()
        if value.dim() != len(extents):
            raise failure(op, f"{name} must be ({', '.join(extents)}), got {tuple(value.shape)}")
        for extent, size in zip(extents, value.shape, strict=True):
            if sizes.setdefault(extent, int(extent) if extent.isdigit() else size) != size:
                raise failure(
                    op,
                    f"{name} {tuple(value.shape)} does not fit: it is ({', '.join(extents)}), and "
                    f"{extent} is {sizes[extent]} elsewhere",
                )
    return sizes


def _check_kind(op: str, name: str, tensor: Tensor, first: Tensor) -> None:
    if tensor.device != first.device:
        raise failure(op, f"{name} is on {tensor.device}, the first tensor on {first.device}")
    wanted = [_DTYPES.get(name, first.dtype)]
    if name in _COMPUTED and op in _IN_LANES:
        wanted = [compute_dtype(first.dtype)]
    elif name in _COMPUTED and op in _MAY_BE_COMPUTED and compute_dtype(first.dtype) not in wanted:
        wanted.append(compute_dtype(first.dtype))
    if tensor.dtype not in wanted:
        raise failure(op, f"{name} must be {' or '.join(map(str, wanted))}, got {tensor.dtype}")
    if not first.is_floating_point():
        raise failure(op, f"takes floating point numbers, got {first.dtype}")


def _pair(op: str, given: Named, name: str, least: int) -> tuple[int, int]:
    pair = given[name]
    if len(pair) != 2 or any(not least <= value <= 2**30 for value in pair):
        raise failure(op, f"{name} must be two ints in [{least}, 2^30], got {list(pair)}")
    return pair[0], pair[1]


def _check_geometry(op: str, given: Named, sizes: dict[str, int]) -> None:
    """Check what a window makes of its input, and channels with groups."""
    if "input_hw" in given:
        sizes["H"], sizes["W"] = _pair(op, given, "input_hw", 0)
    if "stride" not in given:
        return
    pooling = "kernel" in given
    if pooling:
        sizes["R"], sizes["S"] = _pair(op, given, "kernel", 1)
    stride, padding = _pair(op, given, "stride", 1), _pair(op, given, "padding", 0)
    dilation = (1, 1) if pooling else _pair(op, given, "dilation", 1)
    if op in _NOT_EMPTY and 0 in sizes.values():
        raise failure(op, "takes images and weights that are not empty")
    if pooling:
        _check_pooling(op, sizes, padding)
    else:
        _check_channels(op, given["groups"], sizes)
    for axis, (size, kernel, out) in enumerate((("H", "R", "P"), ("W", "S", "Q"))):
        reach = dilation[axis] * (sizes[kernel] - 1) + 1
        padded = sizes[size] + 2 * padding[axis]
        if sizes[kernel] < 1 or reach > padded:
            raise failure(
                op,
                f"a kernel of {sizes[kernel]} with dilation {dilation[axis]} does not fit into "
                f"{sizes[size]} pixels padded by {padding[axis]}",
            )
        want = output_size(sizes[size], sizes[kernel], stride[axis], padding[axis], dilation[axis])
        if sizes.setdefault(out, want) != want:
            raise failure(op, f"the output has {want} pixels along an axis, got {sizes[out]}")
    if "vector" in given and (given["vector"] not in (8, 16) or given["groups"] != 1):
        raise failure(op, f"takes vectors of 16 or 8 without groups, got {given['vector']}")


def _check_pooling(op: str, sizes: dict[str, int], padding: Sequence[int]) -> None:
    if sizes["R"] * sizes["S"] > 255 or min(sizes["H"], sizes["W"]) < 1:
        raise failure(op, "takes windows of at most 255 pixels on images that have any")
    if 2 * padding[0] > sizes["R"] or 2 * padding[1] > sizes["S"]:
        raise failure(op, f"takes a padding of at most half the kernel, got {list(padding)}")


def _check_channels(op: str, groups: int, sizes: dict[str, int]) -> None:
    if (
        groups < 1
        or sizes["O"] % groups
        or sizes.get("C", sizes["I"] * groups) != (sizes["I"] * groups)
    ):
        raise failure(
            op,
            f"channels do not fit: the input has {sizes.get('C')}, the weight {sizes['O']} outputs "
            f"of {sizes['I']} inputs with groups={groups}",
        )
