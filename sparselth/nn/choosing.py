"""How a masked layer chooses between sparse kernels and dense ones, and finds its way again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import SparselthError
from ..ops import reference
from ..ops.autocast import autocast
from ..ops.backends import forced
from ..ops.bitmask import ApplyBits, has_bits
from ..ops.kernel_choice import decide as choosing
from ..ops.kernel_choice import known
from ..ops.kernel_choice.decide import Choice
from ..ops.kernel_choice.measure_cpu import Timings
from ..ops.plan import plannable
from ..ops.switches import mode
from ..ops.transforms import transformed
from .module import MaskedModule
from .paths import MOST_PATHS, Path, kind_of
from .service import Service
from .state import MaskState

# So many kinds of input are measured per mask; the fixed table serves the rest, lest a network that
# sees images of every size spends its time measuring.
_MEASURED_INPUTS = 16

# A choice that is in doubt is made anew after so many forwards, and so often in all.
_FORWARDS_IN_DOUBT, _MOST_MEASUREMENTS = 50, 4


class ChoosingModule(MaskedModule):
    """A masked module that the sparse kernels may serve. Mixed into the layers they know."""

    _op: str
    _paths: dict[tuple | None, Path] = {}  # noqa: RUF012  # of those that have none of their own

    def choice(self, input: Tensor) -> Choice:
        """Return how an input is served: sparse or dense, and by which passes.

        The first input of its kind is measured, see `sparselth.use_choice`; later ones are looked
        up. It depends on which gradients are wanted.
        """
        x, conv = self._prepared(*autocast(input))
        state = self._state_in_place()
        return self._choose(x, conv, state, self._service(state))

    def timings(self, input: Tensor) -> Timings | None:
        """Time sparse against dense for an input; None where nothing can be timed."""
        x, conv = self._prepared(*autocast(input))
        state = self._state_in_place()
        if self._service(state).always_dense or not choosing.measurable(self._op, x):
            return None
        return self._measured(x, conv, state, anew=False)

    @property
    def service(self) -> Service:
        """What is derived from the mask for this module."""
        return self._service(self._state_in_place())

    def _state_in_place(self) -> MaskState:
        if not self._states:
            raise SparselthError(f"this {type(self).__name__} has no mask; set one with sparsify")
        state = self._settled()
        assert state is not None, "asked while another tensor stands in for the weight"
        return state

    def _service(self, state: MaskState) -> Service:
        raise NotImplementedError

    def _prepared(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return `x` as the op gets it, and the op's settings."""
        raise NotImplementedError

    def _measured(self, x: Tensor, conv: Any, state: MaskState, anew: bool) -> Timings | None:
        """Return the timings for `x`; measured also if they are known where `anew`."""
        raise NotImplementedError

    def _past_kernels(self) -> bool:
        """Say whether masks are to be applied as functions, for transforms or dense gradients."""
        state = self._states.get("weight")
        return transformed() or (state is not None and state.collector is not None)

    def _geometry(self) -> tuple:
        """Return the settings that decide how the layer computes."""
        return ()

    def _known_path(self, x: Tensor) -> Path | None:
        """Return how inputs like `x` are computed, if one was and nothing has changed since."""
        weight = self._parameters.get("weight")
        return None if weight is None else self._path_of(kind_of(x, weight))

    def _path_of(self, kind: tuple | None) -> Path | None:
        """Return the same for a kind of input, of `paths.kind_of` this layer's weight."""
        parameters, state = self._parameters, self._states.get("weight")
        weight = parameters.get("weight")
        if kind is None or state is None or weight is None or "bias" not in parameters:
            return None
        path = self._paths.get(kind)
        if path is None or path.derived is not state.derived or path.geometry != self._geometry():
            return None
        return path if state.unchanged(weight, self._buffers.get("weight_mask")) else None

    def _leave_path(
        self,
        kind: tuple | None,
        dtype: torch.dtype,
        state: MaskState,
        service: Service,
        conv: Any,
        choice: Choice,
    ) -> None:
        """Keep the way that an input of a kind went, as `dtype`, for the next one."""
        if kind is None or state.owners.is_shared or choice.doubtful or forced() == "reference":
            return
        paths = self.__dict__.setdefault("_paths", {})
        if len(paths) >= MOST_PATHS:
            paths.clear()
        plan = service.plan if choice.sparse else None
        paths[kind] = Path(state.derived, self._geometry(), dtype, plan, conv, choice)

    def forget_paths(self) -> None:
        """Let the next input of every kind be checked and chosen for again."""
        self.__dict__.pop("_paths", None)

    def _choose(self, x: Tensor, conv: Any, state: MaskState, service: Service) -> Choice:
        if service.always_dense:
            return choosing.ALWAYS_DENSE
        # A mask that keeps everything leaves nothing to win.
        if not state.keeps_all and choosing.measures(self._op, x):
            return self._look_up(x, conv, state, service)
        return choosing.fixed_choice(self._op, x, service.work)

    def _look_up(self, x: Tensor, conv: Any, state: MaskState, service: Service) -> Choice:
        wanted = choosing.wanted_passes(x, state.parameter)
        arrives = choosing.needs_no_conversion(x)
        size = (known.rounded(x.shape[0]), *x.shape[1:])
        plain = x.is_contiguous()
        key = (size, x.dtype, plain, arrives, wanted, torch.get_num_threads(), mode())
        choice = service.choices.get(key)
        anew = choice is not None and choice.doubtful and service.is_due(key, _FORWARDS_IN_DOUBT)
        if choice is not None and not anew:
            return choice
        measured = None
        if anew or len(service.choices) < _MEASURED_INPUTS:
            measured = self._measured(x, conv, state, anew)
        if measured is None:
            return choosing.fixed_choice(self._op, x, service.work)
        choice = choosing.decide(measured, wanted, arrives)
        if choice.doubtful and service.note_doubt(key) >= _MOST_MEASUREMENTS:
            choice = replace(choice, doubtful=False)  # it will not get better
        service.choose(key, choice)
        return choice

    def _dense_weight(self, state: MaskState) -> Tensor:
        """Return the weight for dense passes, its mask applied in the cheapest way."""
        if forced() == "reference":
            return reference.apply_mask(state.parameter, state.mask)
        as_it_is = state.keeps_all or state.serves_itself()
        return state.parameter if as_it_is else self._masked()

    def _kept(self, state: MaskState) -> Tensor:
        """Return the same where nothing is out of the ordinary, on a `Path` that is."""
        if state.keeps_all or state.serves_itself() or not has_bits(state.parameter):
            return self._dense_weight(state)
        return ApplyBits.apply(state.parameter, state.laid_out.bits(state.parameter), state.mask)

    def _compiled_plan(self, x: Tensor, geometry: Any, groups: int) -> tuple[bool, Tensor | None]:
        """Say whether a compiled program takes the sparse op for `x`, and return its plan.

        The program looks the plan up while it runs, so that it follows masks edited later.
        """
        state = self._states["weight"]
        service = state.derived.get(geometry)
        work = state.kept / max(state.mask.numel(), 1) if service is None else service.work
        if not choosing.fixed_choice(self._op, x, work).sparse:
            return False, None
        mask = self._mask("weight")
        if mask.device.type == "cpu" and not plannable(mask.shape, groups):
            return False, None
        if service is None or not service.has_plan or mask.device.type != "cpu":
            return True, None  # the op finds out for itself
        return True, torch.ops.sparselth.mask_plan(mask, groups)
