"""Masks taken over from torch.nn.utils.prune."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..checks import check_model
from ..errors import SparselthError
from ..nn.kinds import sites_of


def from_torch_prune(model: nn.Module) -> dict[str, Tensor]:
    """Take the masks of `torch.nn.utils.prune` over: parameter name -> bool mask.

    model: pruned by `l1_unstructured`, `custom_from_mask` and their like. Its pruning is removed in
    place, as `torch.nn.utils.prune.remove` does: parameters stay the same objects, and have zeros
    where they were pruned. `sparselth.sparsify(model, masks)` then trains on the masks.

    Raises SparselthError where nothing is pruned, or where a parameter is that cannot have a mask
    here (a bias, say); the model is untouched then. Also for what is no model.
    """
    check_model(model)
    pruned = list(_pruned(model))
    if not pruned:
        raise SparselthError("no parameter of the model is pruned by torch.nn.utils.prune")
    sites = sites_of(model)
    other = [name for name, _, _, _ in pruned if name not in sites]
    if other:
        raise SparselthError(
            f"{', '.join(other)}: pruned, but masks go on the weights of layers only; call "
            "torch.nn.utils.prune.remove for these first"
        )
    masks = {}
    for name, module, local, mask in pruned:
        masks[name] = mask.bool()
        prune.remove(module, local)
        with torch.no_grad():  # a value that is not finite times 0 is NaN
            module.get_parameter(local).masked_fill_(~masks[name], 0)
    return masks


def _pruned(model: nn.Module):
    """Yield full name, module, local name and mask of what torch.nn.utils.prune prunes."""
    for path, module in model.named_modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                local = hook._tensor_name
                mask = module._buffers[f"{local}_mask"]
                assert mask is not None
                yield (f"{path}.{local}" if path else local), module, local, mask.detach().clone()
