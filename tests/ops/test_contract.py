"""opcheck and float64 gradcheck for every op, on the kernels that are loaded."""

import pytest
import torch
from support.op_samples import samples
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from sparselth.ops.contract import ALL_SCHEMAS as SCHEMAS

ops = torch.ops.sparselth


@pytest.mark.parametrize("name", SCHEMAS)
def test_opcheck(name):
    for arguments in samples()[name]:
        opcheck(getattr(ops, name).default, arguments)


DIFFERENTIABLE = [n for n in SCHEMAS if n.startswith(("masked_conv2d", "masked_linear"))]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name):
    op = getattr(ops, name)
    for arguments in samples()[name]:
        assert gradcheck(op, arguments)
        assert gradgradcheck(op, arguments, fast_mode=True)
