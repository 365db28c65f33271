"""The slots of a module that belong to masks, and who writes to them.

Whatever is put into the slot of a masked parameter or of its mask is adopted, or refused with the
module as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import SparselthError
from ..ops.parameter_masks import is_sharded
from .recording import NotScriptable
from .state import MaskState


class GuardedSlots(NotScriptable):
    """What a masked module does about its slots. Mixed into `MaskedModule`."""

    # Of the class: without a mask, as the class called by itself makes one, it is the plain module.
    _states: Mapping[str, MaskState] = MappingProxyType({})

    # The parameters in their order, which others change when they take one out.
    _order: tuple[str, ...] = ()

    def set_mask(self, mask: Tensor, name: str = "weight") -> None:
        """Adopt a mask; see `MaskedModule`."""
        raise NotImplementedError

    def _mask(self, name: str) -> Tensor:
        raise NotImplementedError

    def _bind(self, name: str, mask: Tensor, replace: bool = False, moved: bool = False) -> None:
        raise NotImplementedError

    def _note_order(self) -> None:
        self.__dict__["_order"] = tuple(self._parameters)

    def _place(self, name: str) -> int:
        """Return where a parameter stands among the module's, also after it was taken out."""
        return self._order.index(name) if name in self._order else len(self._order)

    def __setattr__(self, name: str, value: Any) -> None:
        states = self._states
        of_mask = name.removesuffix("_mask")
        if name in states:
            self._replace_parameter(name, value)
        elif of_mask != name and of_mask in states:
            if not isinstance(value, Tensor):
                raise SparselthError(f"{name} must be a bool tensor, got {type(value).__name__}")
            self.set_mask(value, of_mask)
        else:
            super().__setattr__(name, value)

    def _replace_parameter(self, name: str, value: Any) -> None:
        if name not in self._parameters and isinstance(value, Tensor):
            self.__dict__[name] = value  # a replica's
            return
        if not isinstance(value, nn.Parameter):
            raise SparselthError(
                f"{name} has a mask and stays a parameter, got {type(value).__name__}; use "
                "sparselth.densify first"
            )
        self._states[name].take_slots()
        mask = self._mask(name)
        if value.shape != mask.shape:
            raise SparselthError(
                f"a parameter of shape {tuple(value.shape)} does not fit the mask of {name}, "
                f"{tuple(mask.shape)}; use sparselth.densify first, or give one of its shape"
            )
        super().register_parameter(name, value)
        if type(value) is nn.Parameter or is_sharded(value):  # others are masked as functions
            self._bind(name, mask.to(value.device))

    def __delattr__(self, name: str) -> None:
        states = self._states
        if name in states or name.removesuffix("_mask") in states:
            raise SparselthError(_taken(type(self), name, "cannot be deleted"))
        super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refuse the parameters by which others take a masked one's place.

        torch.nn.utils.prune and the older weight and spectral norms put `weight_orig`, or
        `weight_g` and `weight_v`, in the place of `weight`, and compute it before each forward.

        Tensor parallelism puts a sharded one there, and would shard the mask its own way.
        name, param: as for any module; a parameter in a masked one's place must have its shape.

        Raises SparselthError for those, with the module as it was.
        """
        for own, state in self._states.items():
            if name in (f"{own}_orig", f"{own}_g", f"{own}_v"):
                self._parameters[own] = state.parameter
                for one in sorted(self._parameters, key=self._place):
                    self._parameters[one] = self._parameters.pop(one)
                raise SparselthError(_taken(type(self), own, f"cannot be computed from {name}"))
        if name in self._states:
            if is_sharded(param):
                raise SparselthError(
                    f"{name} has a mask, and tensor parallelism is not available for it; shard the "
                    "model with torch.distributed.fsdp.fully_shard, leave this layer out of "
                    "parallelize_module, or use sparselth.densify first"
                )
            self._replace_parameter(name, param)
        else:
            super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adopt a mask registered in the place of one, as an assignment does.

        name, tensor, persistent: as for any module; the mask of `weight` is `weight_mask`, bool, of
        its shape and on its device.

        Raises SparselthError for what does not fit the parameter, with the module as it was.
        """
        if not name.endswith("_mask") or name.removesuffix("_mask") not in self._states:
            super().register_buffer(name, tensor, persistent)
            return
        setattr(self, name, tensor)
        change = self._non_persistent_buffers_set
        (change.discard if persistent else change.add)(name)

    def _refuse_parametrization(self, name: str) -> None:
        """Refuse `torch.nn.utils.parametrize.register_parametrization` when it reads a slot.

        It writes to what it read, by the inverse of an orthogonal one say, before it takes the
        slot's place, where nothing could be done about that any more.
        """
        if _called_from(parametrize.register_parametrization, 3):
            raise SparselthError(_taken(type(self), name, "cannot be parametrized"))


def _called_from(function: Any, frames: int) -> bool:
    """Say whether `function`, of Python, is that many frames above the caller's own."""
    frame = inspect.currentframe()
    for _ in range(frames + 1):
        frame = None if frame is None else frame.f_back
    return frame is not None and frame.f_code is function.__code__


def _taken(kind: type, name: str, what: str) -> str:
    return (
        f"the {name} of a {kind.__name__} belongs to its mask and {what}; use sparselth.densify "
        "first, parametrize or prune the plain module, and take the masks of torch.nn.utils.prune "
        "over with sparselth.from_torch_prune"
    )
