"""Penalties that act around an optimizer's step: whole groups, or the scales of norms, to zero."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..checks import check_model, check_number, kind
from ..errors import SparselthError
from ..nn.kinds import sites_of
from ..ops.patterns import Blocks, Pattern, axes, find_pattern
from ..pruning.tensors import prunable_parameters


class StepPenalty(ABC):
    """What pulls some parameters towards zero beside the loss, around every step of an optimizer.

    `attach` it to one of torch's optimizers or of `sparselth.optim`, which keeps it, or pass it to
    `train(regularizer=...)`. It has no state.

    parameters: that it acts on.  strength: the factor of the penalty, > 0.  proximal: act by the
    penalty's proximal step after the optimizer's, which reaches zero; else by its gradient.

    Raises SparselthError for a strength that is not above 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], strength: float, proximal: bool) -> None:
        self.parameters = list(parameters)
        self.strength = check_number("strength", strength, above=0.0)
        self.proximal = proximal
        self._handle: RemovableHandle | None = None

    @abstractmethod
    def value(self) -> Tensor:
        """Return the penalty as it stands, a scalar, its strength included."""

    @abstractmethod
    def _gradient(self, parameter: Tensor) -> Tensor:
        """Return a subgradient of the penalty without its strength."""

    @abstractmethod
    def _shrunk(self, parameter: Tensor, threshold: float) -> Tensor:
        """Return argmin_v |v - parameter|^2 / 2 + threshold * penalty(v)."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Act around every step of `optimizer` from here on, once.

        Raises SparselthError for what is no optimizer, or has none of the parameters.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise SparselthError(f"optimizer must be one of torch.optim, got {kind(optimizer)}")
        mine = {id(parameter) for parameter in self.parameters}
        if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            raise SparselthError(
                "the optimizer has none of the parameters that the penalty acts on; make both of "
                "one model"
            )
        self.detach()
        if self.proximal:
            self._handle = optimizer.register_step_post_hook(lambda made, *_: self._shrink(made))
        else:
            self._handle = optimizer.register_step_pre_hook(self._before)

    def detach(self) -> None:
        """Act no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _mine(self, optimizer: torch.optim.Optimizer) -> Iterable[tuple[nn.Parameter, float]]:
        mine = {id(parameter) for parameter in self.parameters}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in mine and parameter.grad is not None:
                    yield parameter, float(group["lr"])

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """Pull, or let a closure pull, which makes the gradients anew within the step."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._pull(optimizer)
            return None

        def pulling() -> Any:
            loss = closure()
            self._pull(optimizer)
            return loss

        return args[:1], kwargs | {"closure": pulling}

    @torch.no_grad()
    def _pull(self, optimizer: torch.optim.Optimizer) -> None:
        # What a GradScaler leaves to the optimizer, a fused one of torch, divides all by it.
        scale = getattr(optimizer, "grad_scale", None)
        for parameter, _ in self._mine(optimizer):
            assert parameter.grad is not None
            pull = self._gradient(parameter)
            pull = pull if scale is None else pull * scale.to(pull.device)
            parameter.grad.add_(pull, alpha=self.strength)

    @torch.no_grad()
    def _shrink(self, optimizer: torch.optim.Optimizer) -> None:
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None and bool(overflow):
            return  # a fused optimizer took no step
        for parameter, rate in self._mine(optimizer):
            # Beneath the version counter: zeros stay zero, so that masks need not be looked at.
            parameter.data.copy_(self._shrunk(parameter, self.strength * rate))

    # What `train(regularizer=...)` asks for besides.

    def end_epoch(self, epoch: int) -> None:  # noqa: B027 - not every one has to
        """Follow `epoch`: nothing changes with it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint is to hold: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`, what `state_dict` returned.

        Raises SparselthError for anything else.
        """
        if state:
            raise SparselthError(f"a state of {type(self).__name__} is empty, got {kind(state)}")


class GroupLasso(StepPenalty):
    """Pulls whole groups of weights to zero: strength * sum over groups of |w_g|_2.

    parameters: a model, for the weights that `prunable_parameters` returns of it; or weights, as
    its values, of two axes or more.  strength: > 0, of each group alike.
    model: that has the weights. It says which of them are of transposed convolutions, whose outputs
    are their second axis; without it each is taken to be (C_out, C_in, ...).
    pattern: the groups: "filter", "channel", "column" (one tap of one input), "kernel", or blocks
    of whole axes and single places.
    proximal: a group becomes zero at once where its norm is at most strength times learning rate;
    else the gradient strength * w / |w| is added, zero for a group that is zero, as the paper does.

    Raises SparselthError for other patterns, no parameters, what is no weight, as biases and the
    scales of norms, weights that `model` does not have, and a strength that is not above 0.

    Reference: Wen et al. 2016, "Learning structured sparsity", arXiv:1608.03665, equation 1.
    """

    def __init__(
        self,
        parameters: nn.Module | Iterable[nn.Parameter],
        strength: float,
        *,
        model: nn.Module | None = None,
        pattern: str | Pattern = "filter",
        proximal: bool = True,
    ) -> None:
        if isinstance(parameters, nn.Module):
            model = parameters if model is None else model
            parameters = prunable_parameters(parameters).values()
        super().__init__(parameters, strength, proximal)
        if not self.parameters or not all(isinstance(p, Tensor) for p in self.parameters):
            raise SparselthError(
                "GroupLasso takes weights; pass prunable_parameters(model).values()"
            )
        if flat := [tuple(p.shape) for p in self.parameters if p.dim() < 2]:
            raise SparselthError(
                f"GroupLasso takes weights, and biases and norms have no groups: one has the shape "
                f"{flat[0]}; pass prunable_parameters(model).values()"
            )
        self._turned = set() if model is None else _turned_among(model, self.parameters)
        groups = find_pattern(pattern)
        extents = (groups.out, groups.inputs, groups.taps) if isinstance(groups, Blocks) else ()
        if not extents or max(extents) > 1 or min(extents) > 0:
            raise SparselthError(
                f'GroupLasso takes "filter", "channel", "column" or "kernel"; got {pattern!r}'
            )
        self._dims = tuple(axis for axis, extent in enumerate(extents) if extent == 0)

    def _boxes(self, weight: Tensor) -> Tensor:
        """Return a weight as (out, in, taps)."""
        turned = weight.transpose(0, 1) if id(weight) in self._turned else weight
        return turned.reshape(axes(turned.shape))

    def _as_weight(self, boxes: Tensor, weight: Tensor) -> Tensor:
        """Return boxes as the weight they are of lies."""
        if id(weight) not in self._turned:
            return boxes.view_as(weight)
        return boxes.view(weight.transpose(0, 1).shape).transpose(0, 1)

    def _norms(self, boxes: Tensor) -> Tensor:
        """Return each group's norm, of a shape that broadcasts to (out, in, taps)."""
        return torch.linalg.vector_norm(boxes, dim=self._dims, keepdim=True)

    def value(self) -> Tensor:
        """Return strength * sum of all groups' norms, a scalar."""
        norms = [self._norms(self._boxes(weight)).sum() for weight in self.parameters]
        return self.strength * torch.stack(norms).sum()

    def _gradient(self, parameter: Tensor) -> Tensor:
        boxes = self._boxes(parameter)
        norms = self._norms(boxes)
        return self._as_weight(torch.where(norms > 0, boxes / norms, 0.0), parameter)

    def _shrunk(self, parameter: Tensor, threshold: float) -> Tensor:
        boxes = self._boxes(parameter)
        norms = self._norms(boxes)
        share = torch.where(norms > threshold, 1 - threshold / norms, 0.0)
        return self._as_weight(boxes * share, parameter)


def _turned_among(model: nn.Module, weights: Iterable[nn.Parameter]) -> set[int]:
    """Return the ids of those weights of a model that are (in, out, ...)."""
    check_model(model)
    sites = {id(site.slot): site for site in sites_of(model).values() if not site.refusal}
    known = {id(parameter) for parameter in model.parameters()}
    if any(id(weight) not in known for weight in weights):
        raise SparselthError("the model has not all of the weights; make both of one model")
    places = [sites.get(id(weight)) for weight in weights]
    return {id(site.slot) for site in places if site is not None and site.kind.transposed}


class ScaleL1(StepPenalty):
    """Pulls the scales of batch norms to zero: strength * sum of |gamma|, as slimming trains.

    model: whose batch norms with scales are meant.  strength: the paper has 1e-4 and 1e-5.
    proximal: a scale becomes zero at once where it is at most strength times learning rate; else
    the gradient strength * sign(gamma) is added, as the authors' code does.

    Raises SparselthError for a model without such norms, and a strength that is not above 0.

    Reference: Liu et al. 2017, "network slimming", arXiv:1708.06519, equation 1.
    """

    def __init__(self, model: nn.Module, strength: float, *, proximal: bool = True) -> None:
        check_model(model)
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        super().__init__([m.weight for m in norms if m.weight is not None], strength, proximal)
        if not self.parameters:
            raise SparselthError("ScaleL1 pulls the scales of batch norms, and the model has none")

    def value(self) -> Tensor:
        """Return strength * sum of all scales' magnitudes, a scalar."""
        return self.strength * torch.stack([p.abs().sum() for p in self.parameters]).sum()

    def _gradient(self, parameter: Tensor) -> Tensor:
        return parameter.sign()

    def _shrunk(self, parameter: Tensor, threshold: float) -> Tensor:
        return nn.functional.softshrink(parameter, threshold)
