"""How an op of Python's contract gets its derivatives: a formula, in ops again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl

from .. import reference
from ..contract import NAMESPACE, OPS
from ..switches import forced, forcing
from ..transforms import transformed

# The passes of a layer that are dense, where none is.
NO_PASSES: frozenset[str] = frozenset()

_autograd = torch.library.Library(NAMESPACE, "IMPL")


def register_formula(name: str, setup, backward) -> None:
    """Differentiate an op by its formula; by the oracle's own derivatives under transforms.

    As `torch.library.register_autograd`, whose kernels would take the result for a constant in
    forward mode: without an input that requires a gradient they do not look for derivatives.
    """

    def keep(ctx, inputs, output):
        ctx.forced = forced()
        setup(ctx, inputs, output)

    def run(ctx, *grads):
        # On a GPU a backward runs in a thread of autograd's own, which has a context of its own.
        with forcing(ctx.forced):
            return backward(ctx, *grads)

    op = getattr(OPS, name).default
    by_formula = make_autograd_impl(op, Info(run, keep))

    def kernel(keyset, *args):
        if transformed():
            return reference.oracle(name)(*args)
        return by_formula(keyset, *args)

    _autograd.impl(name, kernel, "Autograd", with_keyset=True)


def serving(name: str, grad: Tensor, dense: bool = False) -> Callable[..., Tensor]:
    """Return the sparse op `name`, or the dense computation of the same.

    Dense also where `grad` is being transformed, for a batch of gradients say.
    """
    if not dense and not transformed(grad):
        return getattr(OPS, name)
    return reference.oracle(name)


def of_dtype(parameter: Tensor, x: Tensor) -> Tensor:
    """Return a parameter as dense ops take it; with sparse ones float32 goes with 16 bits."""
    return parameter if parameter.dtype == x.dtype else parameter.to(x.dtype)
