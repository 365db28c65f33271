"""Gradients by pruned weights too, for methods that wake some of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.utils.hooks import RemovableHandle

from ..checks import check_model
from ..errors import SparselthError
from ..ops import reference
from .geometry import as_images
from .kinds import masked_modules
from .masked import MaskedConvolution, MaskedLinear
from .state import MaskState


class DenseGradients:
    """The gradients of the loss by all weights of masked layers, kept or pruned.

    model: made sparse by `sparsify`. Between `start` and `stop` its masked layers compute as ever,
    and parameters get the gradients they always get; what the backwards add up to by every weight
    is computed besides, densely. Not within torch.compile.

    On its mask a weight's gradient is what reaches the parameter. Off it there is what the masked
    layers leave out, and what reaches the parameter from whoever reads it past its layer's forward,
    as MultiheadAttention does the weight of its output projection. A frozen weight has none.

    Raises SparselthError where there is no mask, or start and stop do not alternate.
    """

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        self.model = model
        self.states = self._states_now()
        self.is_on = False
        self._sums: dict[MaskState, Collector] = {}
        self._hooks: list[RemovableHandle] = []
        # Whoever drops this between start and stop leaves nothing on the model.
        weakref.finalize(self, _remove, self._hooks)

    def _states_now(self) -> dict[str, MaskState]:
        """Return the states of all weights with a mask, by name; a move may have made new ones."""
        found: dict[str, MaskState] = {}
        for path, module in masked_modules(self.model):
            for local, state in module._states.items():
                if state not in found.values():
                    found[f"{path}.{local}" if path else local] = state
        if not found:
            raise SparselthError("the model has no mask; call sparselth.sparsify first")
        return found

    def start(self) -> None:
        """Collect from the next forward on.

        Raises SparselthError where it does already.
        """
        if self.is_on:
            raise SparselthError("gradients are collected already; stop that first")
        self.is_on = True
        self.states = self._states_now()
        self._sums = {state: Collector() for state in self.states.values()}
        for state, total in self._sums.items():
            layers = [layer for layer, _ in state.owners]
            state.on_gradient = total.add
            if all(isinstance(layer, (MaskedConvolution, MaskedLinear)) for layer in layers):
                self._hooks += [hook_on_own_output(layer, total.hook) for layer in layers]
            else:
                state.collector = total  # such a layer computes densely anyway

    def stop(self) -> dict[str, Tensor]:
        """Return what was collected: parameter name -> tensor of its shape; zero for none.

        Raises SparselthError where nothing was started.
        """
        if not self.is_on:
            raise SparselthError("no gradients are being collected; start that first")
        self.is_on = False
        _remove(self._hooks)
        found = {}
        for name, state in self.states.items():
            total, state.collector, state.on_gradient = self._sums[state].total, None, None
            found[name] = torch.zeros_like(state.parameter) if total is None else total
        return {name: total.detach() for name, total in found.items()}


def hook_on_own_output(layer: nn.Module, hook: Callable[..., Tensor]) -> RemovableHandle:
    """Let `hook` (layer, args, kwargs, output) -> output see what a layer itself makes of an input.

    It comes before the hooks of others, which may return something else.
    """
    return layer.register_forward_hook(hook, prepend=True, with_kwargs=True)


def input_of(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Return what a layer of one input was called with, cut off from its gradients."""
    return (args[0] if args else named["input"]).detach()


def _remove(hooks: list[RemovableHandle]) -> None:
    for handle in hooks:
        handle.remove()
    hooks.clear()


class Collector:
    """The sum of a weight's dense gradients; None before the first."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, grad: Tensor) -> None:
        """Add a gradient."""
        self.total = grad if self.total is None else self.total + grad

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return the masked weight, differentiably, collecting its gradient."""
        return _Masked.apply(weight, mask, self)

    def hook(
        self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Tensor
    ) -> Tensor:
        """Hand on what a layer gives, collecting the gradient by what its mask leaves out."""
        served = isinstance(layer, (MaskedConvolution, MaskedLinear))  # a copy may be densified
        if not served or not torch.is_grad_enabled() or not _trains(layer):
            return out
        return _Given.apply(out, input_of(args, named), layer, self)


def _trains(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight")
    return weight is not None and weight.requires_grad


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, collector: Collector) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.collector = collector
        return reference.apply_mask(weight, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        ctx.collector.add(grad.masked_fill(mask, 0.0))  # the rest reaches the parameter
        return reference.apply_mask(grad, mask), None, None


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, layer: nn.Module, collector: Collector) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.collector = layer, collector
        # The same tensor, not a view of it, which nobody might write to: `h += x`, an inplace ReLU.
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        found = weight_gradient(ctx.layer, x, grad, ctx.layer._parameters["weight"])
        ctx.collector.add(found.masked_fill_(ctx.layer._mask("weight"), 0.0))
        return grad, None, None, None


def weight_gradient(layer: Any, x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient by all of a masked layer's weight, as if it were dense.

    layer: a masked convolution or linear layer.  x: its input.  grad: the gradient by its output.
    weight: for its shape and dtype.
    """
    grad = grad.to(weight.dtype)
    if isinstance(layer, MaskedLinear):
        rows = grad.reshape(-1, grad.shape[-1])
        return rows.T @ x.reshape(-1, x.shape[-1]).to(weight.dtype)
    assert isinstance(layer, MaskedConvolution)
    if x.dim() < weight.dim():
        x, grad = x.unsqueeze(0), grad.unsqueeze(0)
    x, (stride, padding, dilation, groups) = layer._prepared(x.to(weight.dtype))
    images, rows = as_images(weight), grad.unsqueeze(2) if weight.dim() == 3 else grad
    found = conv2d_weight(x, images.shape, rows, stride, padding, dilation, groups)
    return found.view_as(weight)
