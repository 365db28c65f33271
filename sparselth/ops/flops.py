"""What torch's FlopCounterMode counts of our ops: a dense layer of the same shapes, as of any op.

FlopCounterMode counts by shapes alone, for torch's own sparse ops too. A mask's share of it is the
density: multiply to know what was computed.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

_ops = torch.ops.sparselth


@register_flop_formula([_ops.masked_conv2d, _ops.masked_conv2d_relu])
def _(input, weight, *rest: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


@register_flop_formula(_ops.masked_conv2d_grad_input)
def _(grad_output, weight, *rest: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * prod(grad_output) * prod(weight[1:])


@register_flop_formula(_ops.masked_conv2d_grad_weight)
def _(grad_output, input, mask, *rest: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * prod(grad_output) * prod(mask[1:])


@register_flop_formula([_ops.masked_linear, _ops.masked_linear_grad_input])
def _(rows, weight, *rest: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * rows[0] * prod(weight)


@register_flop_formula(_ops.masked_linear_grad_weight)
def _(grad_output, input, mask, *rest: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * input[0] * prod(mask)
