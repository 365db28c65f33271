"""load_sparse: a saved sparse network, in whichever form, into a model as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checks import check_mapping, check_model, kind
from ..errors import SparselthError
from .convert import checked_masks, densify, sparsify
from .kinds import masked_modules, sites_of
from .state import mask_name

State = Mapping[str, Any]


def load_sparse(
    model: nn.Module, state: State | str | PathLike[str], *, strict: bool = True
) -> nn.Module:
    """Load a sparse network into a model, plain or sparse, which has its masks afterwards.

    model: changed in place and returned; its parameters stay the same objects. Masks it had are
    replaced: a layer without a mask in the state is plain afterwards.
    state: a state dict, or the path of a `.safetensors` file. With masks, as sparse models save
    them (`weight`, `weight_mask`) or as `torch.nn.utils.prune` does (`weight_orig`, `weight_mask`);
    or without any, then what is not zero is kept in each weight that has zeros, as `densify` leaves
    them. Of a pickled file, pass what `torch.load(path, weights_only=True)` returns.
    strict: refuse names that only one of the two has; False leaves those out, as
    `load_state_dict` does.

    `model.load_state_dict` of a dense checkpoint needs nothing of this: a sparse model keeps its
    masks, and its weights are zero off them.

    Raises SparselthError for names, shapes or masks that do not fit, for a state that prunes
    nothing, and for a sharded model (FSDP2); the model is untouched then.
    """
    check_model(model)
    values, masks = _taken_apart(_read(state))
    _check_fit(model, values, strict)
    sites = sites_of(model)
    if not masks:
        masks = _of_zeros(values, [name for name, site in sites.items() if not site.refusal])
    if not strict:
        known = set(_plain_names(model))
        masks = {name: mask for name, mask in masks.items() if name in known}
    devices = {name: parameter.device for name, parameter in _parameters(model).items()}
    masks = {name: mask.to(devices.get(name, mask.device)) for name, mask in masks.items()}
    checked_masks(model, masks)  # before anything is changed
    densify(model)
    sparsify(model, masks)
    model.load_state_dict(values, strict=False)
    return model


def _read(state: State | str | PathLike[str]) -> State:
    if not isinstance(state, (str, PathLike)):
        check_mapping("state", state, "parameter names to tensors")
        return state
    path = fspath(state)
    if not path.endswith(".safetensors"):
        raise SparselthError(
            f"state is a state dict or the path of a .safetensors file, got {path!r}; of a pickled "
            "file, pass what torch.load(path, weights_only=True) returns"
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SparselthError(f"{path!r} cannot be read as safetensors ({error})") from error


def _taken_apart(state: State) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a state without masks, and the masks: parameter name -> bool tensor."""
    values, masks = dict(state), {}
    for key in state:
        name = key.removesuffix("_mask")
        source = next((each for each in (name, f"{name}_orig") if each in state), None)
        if key == name or source is None:
            continue
        mask = _mask(key, values.pop(key))
        value = values.pop(source)
        if not isinstance(value, Tensor) or value.shape != mask.shape:
            raise SparselthError(
                f"{key!r} of the state has shape {tuple(mask.shape)}, {source!r} "
                f"{tuple(value.shape) if isinstance(value, Tensor) else kind(value)}"
            )
        # Not a product: what is pruned may be Inf or NaN.
        values[name] = torch.where(mask.to(value.device), value, 0)
        masks[name] = mask
    return values, masks


def _mask(key: str, mask: Any) -> Tensor:
    if isinstance(mask, Tensor) and (
        mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
    ):
        return mask.bool()
    shown = f"other values, {mask.dtype}" if isinstance(mask, Tensor) else kind(mask)
    raise SparselthError(f"{key!r} of the state must be a mask, of 0 and 1; got {shown}")


def _of_zeros(values: Mapping[str, Any], names: list[str]) -> dict[str, Tensor]:
    masks = {name: values[name] != 0 for name in names if isinstance(values.get(name), Tensor)}
    masks = {name: mask for name, mask in masks.items() if not bool(mask.all())}
    if not masks:
        raise SparselthError(
            "the state has no masks, and no layer's weight in it has zeros; load a dense state "
            "with model.load_state_dict(state)"
        )
    return masks


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{local}" if path else local: parameter
        for path, module in model.named_modules(remove_duplicate=False)
        for local, parameter in module._parameters.items()
        if parameter is not None
    }


def _plain_names(model: nn.Module) -> dict[str, Any]:
    """Return what a state dict of the model holds but masks."""
    state = model.state_dict()
    for path, module in masked_modules(model):
        for local in module.masks():
            state.pop(f"{path}.{mask_name(local)}" if path else mask_name(local), None)
    return state


def _check_fit(model: nn.Module, values: Mapping[str, Any], strict: bool) -> None:
    ours = _plain_names(model)
    missing, unexpected = sorted(ours.keys() - values), sorted(values.keys() - ours)
    if strict and (missing or unexpected):
        parts = [
            f"{what} {', '.join(map(repr, names[:5]))}{' and more' * (len(names) > 5)}"
            for what, names in (("it lacks", missing), ("the model has no", unexpected))
            if names
        ]
        raise SparselthError(
            f"the state is not of this model: {'; '.join(parts)}. strict=False leaves these out"
        )
    for name in ours.keys() & values.keys():
        mine, new = ours[name], values[name]
        if not isinstance(mine, Tensor):
            continue  # what a module saves besides tensors is its own
        shape = tuple(new.shape) if isinstance(new, Tensor) else kind(new)
        if shape != tuple(mine.shape):
            raise SparselthError(
                f"{name!r} has shape {tuple(mine.shape)} in the model, {shape} in the state"
            )
