"""What the optimizers share that keep to the masks by themselves.

Such an optimizer is one of torch's with this class before it: masked and penalized parameters take
a fused op, and torch's own step the rest. That serves masked parameters too where a group asks for
what the op does not know: what was cut to the masks before it stays there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checks import kind
from ..errors import SparselthError
from ..ops import reference
from ..ops.parameter_masks import bound_to, is_sharded

# Other subclasses may not know ops on lists.
_LISTED = (Tensor, torch.nn.Parameter)

# So many values at most are updated in lists, which hold intermediate results of all of them.
_MOST_LISTED = 1 << 20

_Pairs = dict[int, tuple[Tensor, Tensor]]


class Penalty(Protocol):
    """ADMM's rho/2 |W - Z + U|^2, as an optimizer needs it."""

    rho: float

    def pairs(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return Z and U by the `id` of their parameter."""


@dataclass(frozen=True)
class Member:
    """A parameter that the fused op updates, and what it is updated with."""

    parameter: Tensor
    grad: Tensor
    mask: Tensor | None
    pair: tuple[Tensor, Tensor] | None
    state_key: Hashable
    """What the op takes one of for all parameters of a call: how far their state has come."""

    def kind(self) -> Hashable:
        """Say what distinguishes the calls that serve it: lists are full or empty, and uniform."""
        p = self.parameter
        return self.state_key, self.mask is None, self.pair is None, p.dtype, p.device


class MaskedOptimizer(torch.optim.Optimizer):
    """An optimizer of torch that updates only what the masks of `sparsify` keep.

    A subclass says which of a group's options its op does not know, makes the state as torch would,
    and calls the op.
    args, options: those of the optimizer of torch.
    admm: a `sparselth.ADMM`, or None; it may be set and taken away between steps.

    Raises SparselthError for an `admm` that is none.
    """

    keeps_masks = True
    """What its step leaves is on the masks: nothing has to be cleaned after it."""

    by_torch: tuple[str, ...]
    """Options of a group, all False by default, with which torch's own step serves it."""

    def __init__(self, *args: Any, admm: Penalty | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.admm = admm
        # torch's fused steps divide by a gradient scaler's scale themselves, which the ops do not:
        # without this the scaler divides before the step.
        self._step_supports_amp_scaling = False

    @property
    def admm(self) -> Penalty | None:
        """The penalty that acts in the step, or None.

        Raises SparselthError when set to what is none.
        """
        return self._admm

    @admm.setter
    def admm(self, admm: Penalty | None) -> None:
        if admm is not None and not (
            callable(getattr(admm, "pairs", None)) and hasattr(admm, "rho")
        ):
            raise SparselthError(f"admm must be a sparselth.ADMM, got {kind(admm)}")
        self._admm = admm

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        # A copy's has one; what `load_state_dict` hands over has not, and leaves it.
        self._admm = state.pop("admm", getattr(self, "_admm", None))
        super().__setstate__(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "admm": self.admm}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step: masked and penalized parameters by the fused op, the others by torch.

        closure: as in torch.optim, re-evaluates the loss and returns it; so does this then.

        Raises SparselthError where lr or a beta is a tensor on a GPU, and where `admm` meets an
        option of torch's own step, or sharded parameters.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[Member] = []
        pairs = self.admm.pairs() if self.admm is not None else {}
        for group in self.param_groups:
            held += self._fused_step(group, pairs)
        # Torch puts the hooks around the steps of both classes once it has seen both: here the
        # inner ones would be called a second time.
        step: Any = super().step
        step = step.__wrapped__.__get__(self) if getattr(step, "hooked", False) else step
        try:
            with _in_lists(self.param_groups):
                step()
        finally:
            for member in held:
                member.parameter.grad = member.grad
        return loss

    def _state_key(self, group: dict[str, Any], parameter: Tensor) -> Hashable:
        """Make the parameter's state where it has none, and return a `Member`'s state_key."""
        raise NotImplementedError

    def _run(
        self,
        group: dict[str, Any],
        members: list[Member],
        lists: tuple[list[Tensor], ...],
        rho: float,
    ) -> None:
        """Call the op. members: of one kind.  lists: their masks, z and u."""
        raise NotImplementedError

    def _fused_step(self, group: dict[str, Any], pairs: _Pairs) -> list[Member]:
        """Update masked and penalized parameters and hide their gradients from torch's step."""
        bound = {id(p): bound_to(p) for p in group["params"] if p.grad is not None}
        stored = {key: one and one.stored_mask() for key, one in bound.items()}
        found = [
            (p, p.grad, stored[id(p)], pairs.get(id(p)))
            for p in group["params"]
            if p.grad is not None
        ]
        found = [one for one in found if one[2] is not None or one[3] is not None]
        asked = [option for option in self.by_torch if group[option]]
        if any(is_sharded(one[0]) for one in found):
            asked.append("sharded parameters")
        if asked:
            if any(one[3] is not None for one in found):
                raise SparselthError(
                    f"{' and '.join(asked)}: not available with admm; leave one out"
                )
            with torch.set_grad_enabled(group["differentiable"]):
                for one in bound.values():
                    if one is not None:
                        one.clean_()
                        cut_gradient(one)
                        cut_state(self, one)
            return []
        members = [Member(*one, self._state_key(group, one[0])) for one in found]
        calls: dict[Hashable, list[Member]] = {}
        for member in members:
            calls.setdefault(member.kind(), []).append(member)
        for alike in calls.values():
            masks = [member.mask for member in alike if member.mask is not None]
            z, u = ([m.pair[i] for m in alike if m.pair is not None] for i in range(2))
            rho = self.admm.rho if self.admm is not None and z else 0.0
            self._run(group, alike, (masks, z, u), rho)
            for member in alike:
                if member.mask is not None:
                    bound[id(member.parameter)].mark_clean()
        for member in members:
            member.parameter.grad = None
        return members


@contextmanager
def _in_lists(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Let torch's step update lists of parameters on a CPU, too, where nobody decided about it.

    What is left to it is mostly small and many, as the parameters of batch norms, where calls take
    longer than updates. Torch does so on GPUs by itself; the results are the same bits.
    """
    undecided = [
        group
        for group in groups
        if group.get("foreach", False) is None
        and not group.get("fused")
        and not group.get("differentiable")
        and not isinstance(group["lr"], Tensor)
        and not torch.compiler.is_compiling()
        and all(type(p) in _LISTED and p.device.type == "cpu" for p in group["params"])
        and sum(p.numel() for p in group["params"] if p.grad is not None) <= _MOST_LISTED
    ]
    for group in undecided:
        group["foreach"] = True
    try:
        yield
    finally:
        for group in undecided:
            group["foreach"] = None


def cut_gradient(bound: Any) -> None:
    """Set the gradient of a parameter with a mask to zero where it is pruned."""
    parameter = bound.parameter
    if parameter.grad is None:
        return
    if torch.is_grad_enabled():  # a step that is differentiated itself: others hold the gradient
        parameter.grad = reference.apply_mask(parameter.grad, bound.mask)
    else:
        reference.zero_off_mask_(parameter.grad, bound.mask)


def cut_state(optimizer: torch.optim.Optimizer, bound: Any) -> None:
    """Set state of a parameter's shape, momentum or second moments, to zero where it is pruned."""
    for value in optimizer.state.get(bound.parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == bound.parameter.shape:
            reference.zero_off_mask_(value, bound.mask)


def number(name: str, value: float | Tensor) -> float:
    """Return an option's value, which may be a tensor on the host."""
    if isinstance(value, Tensor) and value.device.type != "cpu":
        raise SparselthError(
            f"{name} lies on {value.device}, and reading it would wait for the device; masked "
            "parameters need a number, or a tensor on the CPU"
        )
    return float(value)
