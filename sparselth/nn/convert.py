"""sparsify and densify: plain modules to masked ones and back, in place."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from itertools import zip_longest

import torch
from torch import Tensor, nn

from ..checks import check_mapping, check_model
from ..errors import SparselthError
from ..ops.backends import prefer_dense
from ..ops.checks import MASKS, check_mask
from ..ops.parameter_masks import is_sharded
from ..ops.transforms import has_values
from .choosing import ChoosingModule
from .classes import become, class_of
from .containers import LaneContainer, lane_container
from .coverage import coverage
from .kinds import (
    KINDS,
    Site,
    adapters_of,
    mask_class,
    masked_modules,
    owners_of,
    site_names,
    sites_of,
    usual_sites,
)
from .masked import MaskedConv2d
from .module import MaskedModule
from .norm import LaneBatchNorm2d
from .stem import StemConv2d

_log = logging.getLogger("sparselth")


def sparsify(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Train `model` on `masks` from here on: Conv2d -> MaskedConv2d, Linear -> MaskedLinear.

    model: changed in place and returned. Its modules and parameters stay the same objects, so
    optimizers, hooks and shared references remain valid. Where convolutions are sparse enough for
    their kernels, BatchNorm2d becomes LaneBatchNorm2d, which works in their layout, and an
    unpruned first convolution before one StemConv2d.
    masks: parameter name (`"features.0.weight"`) -> bool tensor of the parameter's shape. None
    keeps what is not zero in each weight that has zeros. A parameter that several modules share has
    one mask, under any of its names.
    Calling it again replaces the masks it names. What share of the weights the masks cover, and
    what they leave out, is logged ("sparselth", INFO); `sparselth.coverage(model)` returns it.

    What averages the weights (`torch.optim.swa_utils.AveragedModel`, a moving average) is made
    after this call, or its model is made sparse too, with the same masks: they are buffers of both.
    `fully_shard` and DistributedDataParallel come after it.

    `torch.export.export` and `torch.onnx.export(..., dynamo=True)` take a sparse model as it is and
    make a dense program of it. torch folds the masks into ONNX's initializers up to a size, and
    `onnxscript.optimizer.optimize(program.model, input_size_limit=2**40, output_size_limit=2**40)`
    folds them all.

    Conv2d, Conv1d and Linear have sparse kernels. Conv3d, transposed convolutions,
    MultiheadAttention (its `in_proj_weight` too), Embedding and transformers' Conv1D compute
    densely with their masks applied. Subclasses that keep the forward are masked alike.

    Raises SparselthError for a name the model does not have, a parameter that cannot have a mask
    (saying why), or a mask of another shape, dtype or device; the model is untouched then.
    """
    check_model(model)
    _adopt(model, checked_masks(model, masks))
    _log.info("%s", coverage(model))
    return model


def move_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Give a model other masks in the middle of its training.

    As `sparsify`, but what was measured of a layer is not measured again while its density stays
    near to what it was then: masks that move every hundred steps would spend their time on that.
    model: made sparse by `sparsify`, or plain.  masks: parameter name -> bool tensor.

    Raises SparselthError as `sparsify` does.
    """
    check_model(model)
    _adopt(model, checked_masks(model, masks), similar=True)


def _adopt(model: nn.Module, places: list[tuple[Site, Tensor]], similar: bool = False) -> None:
    owners = owners_of(model)
    for site, mask in places:
        having = dict.fromkeys((module, local) for _, module, local in owners[id(site.slot)])
        for module, local in having:
            if isinstance(module, StemConv2d):
                module.make_plain()
            if not isinstance(module, MaskedModule):
                become(module, mask_class(module))
            assert isinstance(module, MaskedModule)
            module.set_mask(mask, local, similar=similar)
    _prepare(model)
    _convert_neighbors(model)


def checked_masks(
    model: nn.Module, masks: Mapping[str, Tensor] | None
) -> list[tuple[Site, Tensor]]:
    """Return the place of each mask; arguments and errors as in `sparsify`."""
    sites = sites_of(model)
    if masks is None:
        weights = {name: site.parameter for name, site in usual_sites(model).items()}
        masks = masks_of_zeros(weights, "no weight of the model")
    check_mapping("masks", masks, MASKS)
    known = site_names(model, sites)
    todo: dict[str, tuple[Site, Tensor]] = {}
    for name, mask in masks.items():
        site = _site(model, name, sites, known)
        check_mask(mask, site.slot, f"the mask of {name!r}")
        if site.name in todo and not torch.equal(todo[site.name][1], mask):
            raise SparselthError(
                f"{name!r} is {site.name!r} under another name, and there are two different masks "
                "for it; a shared weight has one"
            )
        todo[site.name] = (site, mask)
    return list(todo.values())


def masks_of_zeros(weights: Mapping[str, Tensor], who: str) -> dict[str, Tensor]:
    """Return masks of what is not zero, for weights that have zeros.

    who: what has none, for the error. A weight of zeros alone is left out, with a warning: nothing
    of it would ever be trained.
    """
    masks = {name: weight.detach() != 0 for name, weight in weights.items()}
    empty = [name for name, mask in masks.items() if mask.numel() and not bool(mask.any())]
    if empty:
        warnings.warn(f"{', '.join(empty)}: all zero, left without a mask", stacklevel=4)
    masks = {name: m for name, m in masks.items() if name not in empty and not bool(m.all())}
    if not masks:
        raise SparselthError(f"{who} has zeros that a mask could be taken from; give masks")
    return masks


def _site(model: nn.Module, name: str, sites: Mapping[str, Site], known: dict[str, str]) -> Site:
    if name in known:
        site = sites[known[name]]
        if site.refusal:
            raise SparselthError(f"{name!r} cannot have a mask: {site.refusal}")
        return site
    path, _, local = name.rpartition(".")
    if name in dict(model.named_parameters(remove_duplicate=False)) and local != "weight":
        raise SparselthError(f"{name!r} cannot have a mask: masks go on the weights of layers")
    module = dict(model.named_modules(remove_duplicate=False)).get(path)
    if module is None or (local != "weight" and local not in sites_of(module)):
        raise SparselthError(
            f"the model has no convolution or linear weight named {name!r}; "
            "masks are keyed by parameter names as in model.named_parameters()"
        )
    if module in adapters_of(model):
        raise SparselthError(
            f"{name!r} is an adapter's, trained beside a layer, and no layer; merge it first"
        )
    kinds = ", ".join(kind.plain.__name__ for kind in KINDS)
    raise SparselthError(
        f"{name!r} belongs to a {type(module).__name__}; masks go on the weight of: {kinds}"
    )


def _prepare(model: nn.Module) -> None:
    """Derive at once what a compiled program needs to know of the masks."""
    for _, module in masked_modules(model):
        if isinstance(module, ChoosingModule) and has_values(module.masks()["weight"]):
            sharded = module._settled() is None
            assert sharded or module.service is not None


def _convert_neighbors(model: nn.Module) -> None:
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
        if sparse and StemConv2d.suits(module, following):
            become(module, StemConv2d)
        elif not sparse and isinstance(module, StemConv2d):
            module.make_plain()
        elif class_of(module) is (nn.BatchNorm2d if sparse else LaneBatchNorm2d):
            become(module, LaneBatchNorm2d if sparse else nn.BatchNorm2d)
        elif isinstance(module, LaneContainer):
            if not sparse:
                become(module, module.plain)
        elif sparse and any(isinstance(child, MaskedConv2d) for child in module.children()):
            kind = lane_container(class_of(module))
            if kind is not None:
                become(module, kind)
        if sparse and isinstance(module, MaskedConv2d) and isinstance(following, nn.BatchNorm2d):
            module.feeds_norm = True
        else:
            module.__dict__.pop("feeds_norm", None)


def densify(model: nn.Module) -> nn.Module:
    """Turn masked modules back into plain ones, zeros in place.

    model: changed in place and returned. Its state dict is an ordinary one afterwards, without any
    mask.

    Raises SparselthError for a sharded model (FSDP2), which it leaves untouched, and for what is no
    model.
    """
    check_model(model)
    masked = [(path, m) for path, m in model.named_modules() if isinstance(m, MaskedModule)]
    for path, module in masked:
        if any(is_sharded(module._parameters.get(local)) for local in module.masks()):
            raise SparselthError(
                f"the weights of {path or 'the model'} are sharded; load the full state dict "
                "(torch.distributed.checkpoint.state_dict.get_model_state_dict with "
                "full_state_dict=True) into a model that is not, and densify that one"
            )
    for _, module in masked:
        module.make_plain()
    _convert_neighbors(model)
    return model


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the masks a sparsified model trains on: parameter name -> bool tensor.

    A parameter that several modules share is there once, under its first name.

    Raises SparselthError for what is no model.
    """
    check_model(model)
    masks: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in masked_modules(model):
        for local, mask in module.masks().items():
            if id(module._states[local]) not in seen:
                seen.add(id(module._states[local]))
                masks[f"{path}.{local}" if path else local] = mask.clone()
    return masks
