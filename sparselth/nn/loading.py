"""load_sparse: a saved sparse network, in whichever form, into a model as it stands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..checks import check_mapping, check_model, kind
from ..errors import SparselthError
from ..ops.transforms import has_values
from .convert import checked_masks, densify, masks_of, masks_of_zeros, sparsify
from .kinds import masked_modules, usual_sites
from .owners import mask_name

State = Mapping[str, Any]

# What DistributedDataParallel and torch.compile put before the names of a model they wrap.
_WRAPPERS = ("module.", "_orig_mod.")


def load_sparse(
    model: nn.Module, state: State | str | PathLike[str], *, strict: bool = True
) -> nn.Module:
    """Load a sparse network into a model, plain or sparse, which has its masks afterwards.

    model: changed in place and returned; its parameters stay the same objects. Masks it had are
    replaced: a layer without a mask in the state is plain afterwards.
    state: a state dict, or the path of a `.safetensors` file; it is not changed. With masks, as
    sparse models save them (`weight`, `weight_mask`) or as `torch.nn.utils.prune` does
    (`weight_orig`, `weight_mask`); or without any, then what is not zero is kept in each weight
    that has zeros, as `densify` leaves them. Of a pickled file, pass what
    `torch.load(path, weights_only=True)` returns.
    strict: refuse names that only one of the two has, as `load_state_dict` does; False leaves those
    out.

    `model.load_state_dict` of a dense checkpoint needs nothing of this: a sparse model keeps its
    masks, and its weights are zero off them.

    Raises SparselthError for names, shapes or masks that do not fit, for a state that prunes
    nothing of the model, for a sharded model (FSDP2), and for one without values; the model is as
    it was then.
    """
    check_model(model)
    _check_ready(model)
    state = _read(state)
    ours = _plain_state(model)
    values, masks = _taken_apart(state, ours)
    if not values.keys() & ours.keys():
        raise SparselthError(f"the state and the model have no name in common{_advice(values)}")
    _add_second_names(values, ours, model)
    if not masks:
        weights = {name: values[name] for name in usual_sites(model) if name in values}
        masks = masks_of_zeros(weights, "the state has no masks, and no layer's weight in it")
    if not strict:
        masks = {name: mask for name, mask in masks.items() if name in ours}
        if not masks:
            raise SparselthError("no mask of the state is of a weight that the model has")
    devices = {name: tensor.device for name, tensor in ours.items() if isinstance(tensor, Tensor)}
    masks = {name: mask.to(devices.get(name, mask.device)) for name, mask in masks.items()}
    checked_masks(model, masks)
    with _put_back_on_error(model, values):
        densify(model)
        sparsify(model, masks)
        model.load_state_dict(values, strict=strict)
    return model


def _check_ready(model: nn.Module) -> None:
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if is_lazy(tensor):
            why = "has no shape yet: run one batch through the model"
        elif not has_values(tensor):
            why = "has no values: call model.to_empty(device=...)"
        elif tensor.is_inference():
            why = "was made in inference mode and cannot be written to: make the model outside it"
        else:
            continue
        raise SparselthError(f"{name!r} {why} before you load into it")


def _read(state: State | str | PathLike[str]) -> State:
    if not isinstance(state, (str, PathLike)):
        check_mapping("state", state, "parameter names to tensors")
        return state
    path = fspath(state)
    if not isinstance(path, str) or not path.endswith(".safetensors"):
        raise SparselthError(
            f"state is a state dict or the path of a .safetensors file, got {path!r}; of a pickled "
            "file, pass what torch.load(path, weights_only=True) returns"
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SparselthError(f"{path!r} cannot be read as safetensors ({error})") from error


def _plain_state(model: nn.Module) -> State:
    """Return a model's state dict without masks."""
    state = model.state_dict()
    for path, module in masked_modules(model):
        for local in module.masks():
            state.pop(f"{path}.{mask_name(local)}" if path else mask_name(local), None)
    pruned = [name for name in state if name.endswith("_orig") and f"{name[:-5]}_mask" in state]
    if pruned:
        raise SparselthError(
            f"the model is pruned by torch.nn.utils.prune ({pruned[0]!r}); take its masks over "
            "first, sparselth.sparsify(model, sparselth.from_torch_prune(model))"
        )
    return state


def _taken_apart(state: State, ours: State) -> tuple[OrderedDict[str, Any], dict[str, Tensor]]:
    """Return a state without masks, and the masks: parameter name -> bool tensor.

    ours: what the model's own state holds. A buffer there may be called like a mask.
    """
    values = OrderedDict(state)
    # Which versions of modules wrote it; a file of tensors alone is taken for one of these.
    values._metadata = getattr(state, "_metadata", ours._metadata)  # type: ignore[attr-defined]
    masks = {}
    for key in state:
        name = key.removesuffix("_mask")
        source = next((each for each in (name, f"{name}_orig") if each in state), None)
        if key == name or source is None or key in ours:
            continue
        mask = _mask(key, values.pop(key))
        value = values.pop(source)
        if not isinstance(value, Tensor) or value.shape != mask.shape:
            raise SparselthError(
                f"{key!r} of the state has shape {tuple(mask.shape)}, {source!r} "
                f"{tuple(value.shape) if isinstance(value, Tensor) else kind(value)}"
            )
        _check_values(source, value)
        # Not a product: what is pruned may be Inf or NaN.
        values[name] = torch.where(mask.to(value.device), value, 0)
        masks[name] = mask
    return values, masks


def _mask(key: str, mask: Any) -> Tensor:
    if isinstance(mask, Tensor):
        _check_values(key, mask)
        if mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all()):
            return mask.bool()
    shown = f"other values, {mask.dtype}" if isinstance(mask, Tensor) else kind(mask)
    raise SparselthError(f"{key!r} of the state must be a mask, of 0 and 1; got {shown}")


def _check_values(key: str, tensor: Tensor) -> None:
    if not has_values(tensor) or tensor.layout is not torch.strided or tensor.is_quantized:
        raise SparselthError(
            f"{key!r} of the state must be an ordinary tensor, got {tensor.dtype} of layout "
            f"{tensor.layout} on {tensor.device}"
        )


def _add_second_names(values: dict[str, Any], ours: State, model: nn.Module) -> None:
    """Give a shared parameter's value all its names: some files keep one of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for several in names.values():
        there = next((name for name in several if name in values), None)
        if there is not None:
            values.update({n: values[there] for n in several if n in ours and n not in values})


@contextmanager
def _put_back_on_error(model: nn.Module, values: State) -> Iterator[None]:
    """Leave the model as it was, and say in a sentence why, where the state does not load."""
    masks = masks_of(model)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    before = {name: (tensor, tensor.detach().clone()) for name, tensor in tensors}
    try:
        yield
    except Exception as error:
        densify(model)
        if masks:
            sparsify(model, masks)
        for tensor, old in before.values():
            tensor.data.copy_(old)
        if isinstance(error, SparselthError):
            raise
        said = " ".join(str(error).split()).removeprefix("Error(s) in loading state_dict for ")
        if "key(s) in state_dict" in said:
            said += " strict=False leaves these names out."
        raise SparselthError(f"the state does not load into a {said}{_advice(values)}") from error


def _advice(values: State) -> str:
    inside = next((name for name, value in values.items() if isinstance(value, Mapping)), None)
    if inside is not None:
        return f"; {inside!r} in it is a mapping: pass that, if it is the state dict"
    wrapper = next((w for w in _WRAPPERS if any(name.startswith(w) for name in values)), None)
    if wrapper is None:
        return ""
    return (
        f"; its names begin with {wrapper!r}, as a wrapped model saves them: remove that by "
        "torch.nn.modules.utils.consume_prefix_in_state_dict_if_present"
    )
