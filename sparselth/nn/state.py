"""A parameter and its mask: what keeps one on the other, and what is derived from both.

The invariant: whoever wrote to the parameter, to the mask or into the module's slot for either, the
next forward, gradient, saved state, `densify`, `sparsity` and export agree, or the write raised.

How it is kept. Forwards compute with kept weights only, whatever stands off the mask. A hook on the
parameter sets gradients to zero there that came past the forwards. The parameter itself is cleaned
where a write can be seen (an assignment, a version counter, new memory, any optimizer's step) and
wherever values leave the package: when state is saved, at `densify`, when `weight` is read from
outside. Cleaning writes beneath the version counter: no forward has saved what it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparselthError
from ..ops import reference
from ..ops.bitmask import ApplyBits, apply_bits_, can_apply_bits, has_bits
from ..ops.checks import check_mask
from ..ops.parameter_masks import bind, bound_to, unbind
from ..ops.plan import forget_plan
from ..ops.transforms import has_values, is_fake, transformed
from .gradient_hook import GradientHook
from .laid_out import LaidOut
from .owners import Owners, mask_name
from .service import Service
from .sharded import Shard
from .watch import MaskWatch, version_of

# Where a parameter is taken to be on its mask while its version counter stands.
_CLEAN_BY_VERSION = ("cuda",)


class MaskState:
    """A parameter, its mask, and all modules that share the parameter.

    parameter: the ordinary parameter.  mask: bool, its shape and device, a buffer of every owner.
    """

    def __init__(self, parameter: nn.Parameter, mask: Tensor) -> None:
        self.parameter = parameter
        self.owners = Owners()
        self._hook = GradientHook(self)
        self.shard: Shard | None = None
        self.kept, self.keeps_all = 0, False
        self._clean: tuple[int, int] | None = None
        self.is_fake = False
        self.collector: Any = None  # of gradients by pruned weights, see `dense_gradients`
        self.on_gradient: Callable[[Tensor], None] | None = None  # sees what the parameter gets
        self._watch, self.mask = MaskWatch(), mask
        self.adopt(parameter)
        self.set_mask(mask)

    # --- who it belongs to --------------------------------------------------------------------

    @staticmethod
    def of(parameter: Tensor | None) -> MaskState | None:
        """Return the state of a parameter that has a mask, or None."""
        holder = None if parameter is None else bound_to(parameter)
        return holder.whole if isinstance(holder, Shard) else holder

    def is_only_of(self, module: nn.Module) -> bool:
        """Say whether nobody but `module` has the parameter."""
        return all(owner is module for owner, _ in self.owners)

    def adopt(self, parameter: nn.Parameter) -> None:
        """Take `parameter` in the place of the one before, which is free then."""
        self._let_go()
        self.parameter = parameter
        bind(parameter, self)
        self._hook.hold(parameter)

    def hold_shard(self, parameter: nn.Parameter) -> None:
        """Take a sharded parameter, which stands in the slot while nobody computes."""
        if self.shard is not None and self.shard.parameter is parameter:
            return
        # The whole one comes, with the first forward; the one before would keep its memory.
        self.release()
        whole = self.parameter.detach().to("meta")
        self.parameter = nn.Parameter(whole, requires_grad=parameter.requires_grad)
        self.shard = Shard(parameter, self)
        self.shard.clean_()

    def release(self) -> None:
        """Let go of the parameter, and of its shard: no hook, no entry."""
        if self.shard is not None:
            self.shard.release()
            self.shard = None
        self._let_go()

    def _let_go(self) -> None:
        self._hook.drop(self.parameter)
        if bound_to(self.parameter) is self:
            unbind(self.parameter)

    def add_owner(self, module: nn.Module, name: str) -> None:
        """Note that `module` has the parameter under `name`; its mask becomes this one."""
        self.owners.add(module, name)
        module._buffers[mask_name(name)] = self.mask

    def leave(self, module: nn.Module) -> None:
        """Forget an owner; the last one frees the parameter."""
        self.owners.remove(module)
        if not any(True for _ in self.owners):
            self.release()

    # --- the mask -----------------------------------------------------------------------------

    def set_mask(self, mask: Tensor, copy: bool = True, similar: bool = False) -> None:
        """Take `mask`, which fits the parameter, for all owners; pruned weights become zero.

        copy: take one of it, and not the tensor itself.  similar: as in `renew`.
        """
        if copy or mask.is_inference() or not mask.is_contiguous():
            with torch.inference_mode(False):
                mask = mask.detach().clone(memory_format=torch.contiguous_format)
        if mask is not self.mask:
            self._watch = MaskWatch()
        self.mask = mask
        for module, name in self.owners:
            module._buffers[mask_name(name)] = mask
        self.renew(similar)

    def mask_in_slots(self) -> Tensor:
        """Return the mask as its owners have it: one put into a slot past the module, or `mask`."""
        other = self.owners.other_mask(self.mask)
        return self.mask if other is None else other

    def take_slots(self) -> None:
        """Take a mask that was put into a slot past the module (`_buffers[name] = mask`).

        Forwards compute with such a mask and leave it where it is, as
        `torch.func.functional_call` puts masks there for one call. An optimizer's step and saved
        state come after any such call.
        Raises SparselthError where it does not fit, or where owners have different ones.
        """
        mask = self.mask_in_slots()
        # While a model is sharded, the whole parameter lies on the meta device.
        beside = self.mask if self.parameter.is_meta else self.parameter
        if mask is self.mask or type(mask) is not Tensor or beside.is_meta:
            return
        mask = mask.to(beside.device)
        check_mask(mask, beside, "the mask of a parameter")
        self.owners.check_agree(mask, self.mask)
        self.set_mask(mask)

    @torch.no_grad()
    def renew(self, similar: bool = False) -> None:
        """Forget what was derived from the mask before, and clean the parameter.

        similar: choices of kernels are kept while densities are near.
        """
        mask = self.mask
        forget_plan(mask)
        self._before = self.derived if similar else {}
        self.derived: dict[Any, Service] = {}
        self.laid_out = LaidOut(mask)
        # On the meta device it has no values yet: loading follows, and is noticed. A fake one never
        # has any, and no address either.
        self.is_fake = is_fake(mask) or is_fake(self.parameter)
        self.kept = int(mask.count_nonzero()) if has_values(mask) else mask.numel()
        self.keeps_all = has_values(mask) and self.kept == mask.numel()
        self._watch.begin(None if self.is_fake else mask)
        self._clean_by(reference.zero_off_mask_)
        if self.shard is not None:
            self.shard.forget()
            self.shard.clean_()

    def service(self, geometry: Any, groups: int) -> Service:
        """Return how modules of one geometry compute; made when it is first asked for."""
        service = self.derived.get(geometry)
        if service is None:
            service = Service(self.mask, groups, self._before.pop(geometry, None))
            self.derived[geometry] = service
        return service

    def stored_mask(self) -> Tensor:
        """Return the mask as it is now, stored as the parameter is."""
        if not self.parameter.is_contiguous():
            self._follow_mask()
        return self.laid_out.bools(self.parameter)

    # --- keeping the parameter on it ------------------------------------------------------------

    def settle(self) -> None:
        """Notice what was written to the mask or to the parameter since the last time.

        Two version counters and two addresses are compared: the cost for each forward.
        Raises SparselthError where the parameter does not fit the mask any more.
        """
        parameter = self.parameter
        if self.is_fake:
            return
        written = (parameter.data_ptr(), version_of(parameter)) != self._clean
        if not self._follow_mask() and written:
            self._fit()
            self.clean_()
        if not self._hook.held and parameter.requires_grad:
            self._hook.hold(parameter)

    def unchanged(self, parameter: nn.Parameter, mask: Tensor | None) -> bool:
        """Say whether these are its own, and `settle` would find nothing to do for sure."""
        return (
            parameter is self.parameter
            and mask is self.mask
            and not (self.owners.is_shared or self.collector)
            and not (parameter.is_inference() or mask.is_inference())  # which have no counter
            and (parameter.data_ptr(), parameter._version) == self._clean
            and self._watch.knows(mask)
            and (self._hook.held or not parameter.requires_grad)
        )

    def keeps_all_of(self, mask: Tensor) -> bool:
        """Say whether `mask` is its own and keeps everything for sure, without looking at it."""
        return self.keeps_all and mask is self.mask and self._watch.knows(mask)

    def cut(self, grad: Tensor, mask: Tensor) -> Tensor:
        """Return a gradient with zeros off `mask`, by bits if it is its own."""
        alike = type(grad) is Tensor and grad.dtype == self.parameter.dtype
        known = mask is self.mask and not self.is_fake and self._watch.knows(mask)
        if alike and known and can_apply_bits(self.parameter) and not transformed(grad):
            return ApplyBits.apply(grad, self.laid_out.bits(self.parameter))
        return reference.apply_mask(grad, mask)

    def serves_itself(self) -> bool:
        """Say whether dense layers compute with the parameter itself, its gradient cut by the hook.

        Writes through `data` pass the version counter: on a CPU the mask is applied all the same.
        """
        return (
            self.parameter.device.type in _CLEAN_BY_VERSION
            and self.on_gradient is None
            and (self._hook.held or not self.parameter.requires_grad)
        )

    def mask_changed(self) -> bool:
        """Say whether the mask holds something else than when it was last looked at."""
        return not self.is_fake and self._watch.changed(self.mask)

    def _follow_mask(self) -> bool:
        """Take up what was written to the mask, and say whether anything was."""
        if not self.mask_changed():
            return False
        self._fit()
        self.renew()
        return True

    def show_mask(self) -> Tensor:
        """Return the mask to somebody who may write to it, through `data` or numpy too.

        No counter sees that: on the CPU the mask is compared with a copy from then on.
        """
        self.settle()
        if not self.is_fake and self.mask.device.type == "cpu":
            self._watch.expose(self.mask)
        return self.mask

    def _fit(self) -> None:
        """Follow a parameter whose `data` was replaced: to another device, not to another shape."""
        if self.mask.dtype != torch.bool or self.parameter.shape != self.mask.shape:
            raise SparselthError(
                f"a masked parameter has shape {tuple(self.parameter.shape)} now, its mask "
                f"{tuple(self.mask.shape)} and {self.mask.dtype}; densify the model before a layer "
                "changes its size, and keep masks bool"
            )
        if self.parameter.device != self.mask.device:
            self.set_mask(self.mask.to(self.parameter.device))

    def clean_(self, once: bool = False) -> None:
        """Set the parameter to zero where its mask prunes it.

        once: it will not be asked for again and again, so that bits are not worth their memory.
        """
        self.take_slots()
        if self._follow_mask():
            return
        on_cpu = self.parameter.device.type == "cpu"  # where branches are what a fill waits for
        if on_cpu and has_bits(self.parameter) and not (once and not self.laid_out.has_bits):
            self._clean_by(lambda values, _: apply_bits_(values, self.laid_out.bits(values)))
        else:
            self._clean_by(reference.zero_off_mask_)

    def _clean_by(self, apply: Any) -> None:
        # FSDP frees the memory of a whole parameter that nobody needs.
        there = self.parameter.untyped_storage().size() > 0
        if there and has_values(self.parameter) and has_values(self.mask):
            with torch.no_grad():
                apply(self.parameter.data, self.mask)  # what is done to `data` is not counted
        self._hook.follow(self.parameter)
        self.mark_clean()

    def mark_clean(self) -> None:
        """Record that the parameter is zero off the mask as it stands."""
        if not self.is_fake:
            self._clean = (self.parameter.data_ptr(), version_of(self.parameter))
