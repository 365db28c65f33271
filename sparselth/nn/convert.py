"""sparsify and densify: plain modules to masked ones and back, in place."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from torch import Tensor, nn

from ..errors import SparselthError
from ..ops.backends import prefer_dense
from ..ops.binding import bind_mask
from ..ops.checks import check_mask
from .entry import EntryConv2d
from .masked import DERIVED, MaskedConv2d, MaskedModule, masked_type
from .norm import BlockedBatchNorm2d


def sparsify(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Train `model` on `masks` from here on: Conv2d -> MaskedConv2d, Linear -> MaskedLinear.

    model: changed in place and returned. Its modules and parameters stay the same objects, so
    optimizers, hooks and shared references remain valid. Where convolutions are sparse enough for
    their kernels, BatchNorm2d becomes BlockedBatchNorm2d, which works in their layout, and an
    unpruned first convolution before one EntryConv2d.
    masks: parameter name (`"features.0.weight"`) -> bool tensor of the parameter's shape.
    Calling it again replaces the masks it names.

    Raises SparselthError for a name the model does not have, a parameter that is not the weight
    of a convolution or linear layer, or a mask of another shape, dtype or device; the model is
    untouched then.
    """
    todo = []
    modules = dict(model.named_modules())
    for name, mask in masks.items():
        owner, _, attribute = name.rpartition(".")
        if owner not in modules or attribute != "weight":
            raise SparselthError(
                f"the model has no convolution or linear weight named {name!r}; "
                "masks are keyed by parameter names as in model.named_parameters()"
            )
        module = modules[owner]
        masked = masked_type(module, name)
        weight = module.get_parameter("weight")
        check_mask(mask, weight, f"the mask of {name!r}")
        todo.append((module, masked, mask))
    for module, masked, mask in todo:
        if isinstance(module, EntryConv2d):
            module.make_plain()
        # As torch's parametrize does: the class changes, the object stays.
        module.__class__ = masked
        assert isinstance(module, MaskedModule)
        module.set_mask(mask)
    _convert_neighbours(model)
    return model


def _convert_neighbours(model: nn.Module) -> None:
    """Let what is around sparse convolutions compute in their layout, or make it plain again."""
    masked = [module for module in model.modules() if isinstance(module, MaskedConv2d)]
    sparse = any(
        not prefer_dense(
            "masked_conv2d", module.weight.device, 1.0 - module.sparsity, module.weight.dtype
        )
        for module in masked
    )
    modules = list(model.modules())
    for module, following in zip_longest(modules, modules[1:]):
        if sparse and EntryConv2d.suits(module, following):
            module.__class__ = EntryConv2d
        elif not sparse and isinstance(module, EntryConv2d):
            module.make_plain()
        elif type(module) is (nn.BatchNorm2d if sparse else BlockedBatchNorm2d):
            module.__class__ = BlockedBatchNorm2d if sparse else nn.BatchNorm2d


def densify(model: nn.Module) -> nn.Module:
    """Turn masked modules back into plain ones, zeros in place. Returns `model`.

    The state dict is an ordinary one afterwards, without any `weight_mask`.
    """
    for module in model.modules():
        if isinstance(module, MaskedModule):
            bind_mask(module.weight, None)
            del module.weight_mask
            for name in DERIVED:
                del module.__dict__[name]
            module.__class__ = module._plain  # type: ignore[assignment]  # to the base class
    _convert_neighbours(model)
    return model


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks a sparsified model trains on: parameter name -> bool tensor."""
    return {
        f"{name}.weight" if name else "weight": module.weight_mask
        for name, module in model.named_modules()
        if isinstance(module, MaskedModule)
    }
