"""The oracle of the convolutions of single kept weights: those of `reference.py`, plans unread."""

from __future__ import annotations

import torch

from . import reference
from .contract import NAMESPACE
from .contract_entries import ENTRIES_SCHEMAS


def entries_conv2d(input, weight, mask, bias, plan, *conv):
    return reference.masked_conv2d(input, weight, mask, bias, plan, *conv).contiguous()


def entries_conv2d_grad_input(grad_output, weight, mask, plan, input_hw, *conv):
    run = reference.masked_conv2d_grad_input
    return run(grad_output, weight, mask, plan, input_hw, *conv).contiguous()


def entries_conv2d_grad_weight(grad_output, input, mask, plan, *conv):
    return reference.masked_conv2d_grad_weight(grad_output, input, mask, plan, *conv)


for _name in ENTRIES_SCHEMAS:
    torch.library.register_kernel(f"{NAMESPACE}::{_name}", None, globals()[_name])
