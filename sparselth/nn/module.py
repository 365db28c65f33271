"""MaskedModule: what every module with masked parameters does about them.

The masks are bool buffers beside the parameters (`weight` and `weight_mask`), saved and loaded with
them. `state.py` says what is kept up and how; here are the ways in and out of a module: its slots,
its state dict, copies, moves, and whoever reads a parameter from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparselthError
from ..ops import reference
from ..ops.bitmask import ApplyBits, can_apply_bits
from ..ops.checks import check_mask
from ..ops.parameter_masks import is_sharded
from ..ops.transforms import has_values, is_recording
from .classes import become, remake
from .owners import mask_name
from .reading import forwards
from .sharded import Shard
from .slots import GuardedSlots
from .state import MaskState

_WITHOUT_VALUES = (
    "the mask lies on the meta device, without values, as offloading leaves buffers; ask before "
    "that, offload the parameters only, or remove the hooks that offload"
)


# What a module has beside those of its plain class, and neither saves nor keeps as a plain one.
_DERIVED = ("_states", "_order", "_paths")


class MaskedModule(GuardedSlots):
    """A module with parameters on masks, made by `sparsify`, which mixes this into its class."""

    maskable: tuple[str, ...] = ("weight",)
    """The parameters that may have a mask."""

    _plain: type[nn.Module]

    # --- masks ----------------------------------------------------------------------------------

    def set_mask(self, mask: Tensor, name: str = "weight", *, similar: bool = False) -> None:
        """Adopt `mask` (bool, the parameter's shape): pruned weights become exactly zero.

        similar: it prunes as the one before did, see `MaskState.renew`.
        Raises SparselthError when shape, dtype or device do not fit the parameter `name`.
        """
        parameter = self._parameters[name]
        assert parameter is not None
        check_mask(mask, parameter, mask_name(name))
        if similar and (state := self._states.get(name)) is not None and self._owns(name, state):
            state.set_mask(mask, similar=True)
        else:
            self._bind(name, mask, replace=True)

    def refresh_mask(self) -> None:
        """Set pruned weights to zero and derive anew what follows from the masks."""
        for state in self._states.values():
            state.renew()

    @property
    def sparsity(self) -> float:
        """Share of pruned weights among the parameters with a mask, a fraction in [0, 1]."""
        kept = total = 0
        for name, mask in self.masks().items():
            state = self._settled(name)
            if state is None and not has_values(mask):
                raise SparselthError(_WITHOUT_VALUES)
            kept += int(mask.count_nonzero()) if state is None else state.kept
            total += mask.numel()
        return 1.0 - kept / total if total else 0.0

    def masks(self) -> dict[str, Tensor]:
        """Return the masks, bool, True keeps, by the names of their parameters in this module."""
        return {name: self._mask(name) for name in self._states}

    def _mask(self, name: str) -> Tensor:
        mask = self._buffers.get(mask_name(name))
        if mask is None:
            raise SparselthError(
                f"{mask_name(name)} was taken out of the buffers of a {type(self).__name__}; put "
                "it back, or use sparselth.densify before masks are removed"
            )
        state = self._states.get(name)
        if state is None or not state.owners.is_shared or torch.compiler.is_compiling():
            return mask
        return state.mask_in_slots() if mask is state.mask else mask

    def _bind(self, name: str, mask: Tensor, replace: bool = False, moved: bool = False) -> None:
        """Let the parameter in the slot `name` and a mask belong together.

        A parameter that has a mask already, in a module that shares it, keeps that one unless
        `replace`.  moved: the mask is the module's own and needs no copy, in shared memory say.
        """
        parameter = self._parameters[name]
        assert parameter is not None
        states = self.__dict__.setdefault("_states", {})
        mine, shared = states.get(name), MaskState.of(parameter)
        if shared is None and is_sharded(parameter):
            assert mine is not None, "a sharded parameter gets no first mask, see kinds"
            mine.hold_shard(parameter)
            shared = mine
        if shared is None:
            if mine is not None and (mine.parameter is parameter or mine.is_only_of(self)):
                mine.adopt(parameter)
                shared, replace = mine, True  # what is derived belongs to the one before
            else:
                shared = MaskState(parameter, mask)
        if replace:
            shared.set_mask(mask, copy=not moved)
        if mine is not None and mine is not shared:
            mine.leave(self)
        states[name] = shared
        shared.add_owner(self, name)
        self._note_order()

    def _settled(self, name: str = "weight") -> MaskState | None:
        """Return a parameter's state, brought up to date.

        None without a mask, where something else stands in a slot, as within `functional_call`, or
        nothing may be written: then masks are applied as functions.
        """
        state = self._states.get(name)
        if state is None or not self._owns(name, state):
            return None
        state.settle()
        return state

    def clean(self, name: str) -> None:
        """Set the parameter `name` to zero off its mask, if it has one, before it leaves."""
        if name not in self._states:
            return
        self._states[name].take_slots()
        state = self._settled(name)
        if state is not None:
            state.clean_(once=True)
        elif (shard := self._shard(name)) is not None:
            shard.clean_()
        elif type(self._slot(name)) in (Tensor, nn.Parameter):
            with torch.no_grad():
                reference.zero_off_mask_(self._slot(name).data, self._mask(name))

    def _owns(self, name: str, state: MaskState) -> bool:
        return (
            self._parameters.get(name) is state.parameter
            and self._buffers.get(mask_name(name)) is state.mask
            and (not state.owners.is_shared or state.mask_in_slots() is state.mask)
        )

    def _shard(self, name: str) -> Shard | None:
        """Return what holds the parameter in a slot where that is sharded, see `sharded`."""
        shard = self._states[name].shard
        in_place = shard is not None and self._parameters.get(name) is shard.parameter
        return shard if in_place and self._mask(name) is self._states[name].mask else None

    # --- reading a parameter --------------------------------------------------------------------

    def _read(self, name: str) -> Tensor:
        parameter = self._slot(name)
        states = self._states
        if name not in states:
            return parameter
        computing = forwards().get(id(self))
        if computing is not None:
            if name not in computing:
                computing[name] = self._masked(name)
            return computing[name]
        if not is_recording():
            self._refuse_parametrization(name)
            if (shard := self._shard(name)) is not None:
                shard.clean_()
                return parameter
        if is_recording() or not self._owns(name, states[name]):
            return self._masked(name)
        states[name].settle()
        states[name].clean_()  # whoever wrote through `data` went unseen
        return parameter

    def _show(self, name: str) -> Tensor:
        mask = self._buffers.get(mask_name(name))
        if mask is None:
            raise AttributeError(f"{type(self).__name__!r} has no mask of {name!r}")
        states = self._states
        if not is_recording():
            self._refuse_parametrization(name)
        if is_recording() or not self._owns(name, states[name]):
            return self._mask(name)
        return states[name].show_mask()

    def _slot(self, name: str) -> Tensor:
        # A replica of torch.nn.DataParallel has plain tensors for parameters.
        slots: dict[str, Any] = self._parameters if name in self._parameters else self.__dict__
        if name not in slots:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return slots[name]

    def _masked(self, name: str = "weight") -> Tensor:
        """Return a parameter with its mask, if it has one, applied differentiably."""
        weight = self._slot(name)
        if name not in self._states:
            return weight
        mask = self._mask(name)
        if weight.device != mask.device:
            mask = mask.to(weight.device)  # whoever offloads moves one after the other
        if (collector := self._states[name].collector) is not None:
            return collector.apply(weight, mask)
        if not torch.compiler.is_compiling() and can_apply_bits(weight):
            state = self._settled(name)
            if state is not None:
                return ApplyBits.apply(weight, state.laid_out.bits(state.parameter), state.mask)
        return reference.apply_mask(weight, mask)

    @contextmanager
    def _own_forward(self) -> Iterator[None]:
        """Within it the module reads its parameters with their masks applied, each once."""
        reading = forwards()
        before = reading.get(id(self))
        reading[id(self)] = {}
        try:
            yield
        finally:
            if before is None:
                del reading[id(self)]
            else:
                reading[id(self)] = before

    # --- copies, moves and saved state ----------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for state in self._states.values():
            state.take_slots()
            state.release()  # it may be swapped, which wants a parameter without hooks
        try:
            return super()._apply(fn, recurse)
        finally:
            for name in list(self._states):
                self._bind(name, self._mask(name), replace=True, moved=True)

    def __getstate__(self) -> dict[str, Any]:
        for state in self._states.values():
            state.take_slots()
        return {k: v for k, v in self.__dict__.items() if k not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name in self.maskable:
            if self._buffers.get(mask_name(name)) is not None:
                self._bind(name, self._mask(name))

    def __reduce_ex__(self, protocol: Any) -> Any:
        kind = type(self)
        if kind.__dict__.get("_made_for") is None:
            return super().__reduce_ex__(protocol)
        return remake, (kind._made_by, kind._made_for), self.__getstate__()  # type: ignore[attr-defined]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name in self._states:
            self.clean(name)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self._states:
            # A dense checkpoint has no mask: keep ours.
            key = prefix + mask_name(name)
            if key in missing_keys:
                missing_keys.remove(key)
            self._settled(name)

    def make_plain(self) -> None:
        """Turn into the plain module again, in place, with zeros where weights were pruned."""
        for name, state in self._states.items():
            self.clean(name)
            state.leave(self)
            del self._buffers[mask_name(name)]
            self._non_persistent_buffers_set.discard(mask_name(name))
        plain = self._plain
        for derived in _DERIVED:
            self.__dict__.pop(derived, None)
        become(self, plain)  # the class it was made from

    def extra_repr(self) -> str:
        if not self._states:
            return super().extra_repr()
        away = not all(map(has_values, self.masks().values()))
        share = "masks without values" if away else f"sparsity={self.sparsity:.4f}"
        return ", ".join(filter(None, (super().extra_repr(), share)))
