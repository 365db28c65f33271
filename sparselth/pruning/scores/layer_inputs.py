"""What goes into a layer on data, as the rows of a least-squares problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SparselthError
from ...nn.kinds import kind_of
from .batches import input_of
from .maps import Layers, layers_of
from .running import run, without_pruned

# Of a feature map, as many positions as the paper samples per image.
_POSITIONS = 10


@torch.no_grad()
def layer_inputs(
    model: nn.Module,
    weights: Iterable[str],
    data: Iterable[Any],
    left: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield, for each batch and each weight's layer, what its filters are multiplied with.

    Of a convolution ten positions of each example's output, drawn with a seed of their own: the
    same ones each time. In evaluation mode, `data` is read once.
    left: parameter name -> bool mask; the model is that without what they prune.
    Yields the weight's name and (examples * positions, C_in, taps), float64, such that the output
    without its bias is the sum of products with the weight (C_out, C_in, taps).

    Raises SparselthError for layers other than Conv2d of one group and Linear, for NaN and Inf in
    what they take, and for no batch.
    """
    layers = layers_of(model.eval(), weights)
    for name, several in layers.items():
        for layer in several:
            check_reconstructed(name, layer)
    draws = {name: torch.Generator().manual_seed(0) for name in layers}
    pruned = without_pruned(model, left or {})
    number = -1
    for number, batch in enumerate(data):
        for name, found in _seen(pruned, layers, input_of(batch), number).items():
            if not found:
                raise SparselthError(f"the layer of {name!r} is not called; exclude it")
            for layer, x in found:
                if not bool(torch.isfinite(x).all()):
                    raise SparselthError(
                        f"what the layer of {name!r} takes holds NaN or Inf in batch {number}"
                    )
                yield name, _rows(layer, x.double(), draws[name])
    if number < 0:
        raise SparselthError("data holds no batch; a score of reconstruction wants at least one")


def _seen(
    model: nn.Module, layers: Layers, x: Any, number: int
) -> dict[str, list[tuple[Any, Tensor]]]:
    """Return what each layer takes in a forward, with the layer, in the order of its calls."""
    seen: dict[str, list[tuple[Any, Tensor]]] = {name: [] for name in layers}

    def see(name: str) -> Any:
        return lambda layer, inputs: seen[name].append((layer, inputs[0].detach()))

    with ExitStack() as hooks:
        for name, several in layers.items():
            for layer in several:
                hooks.callback(layer.register_forward_pre_hook(see(name)).remove)
        run(model, x, number)
    return seen


def check_reconstructed(weight: str, layer: nn.Module) -> None:
    """Require a layer whose output is one matrix product of patches of its input."""
    kind = kind_of(layer)
    plain = kind is not None and kind.plain in (nn.Linear, nn.Conv2d)
    if weight.rpartition(".")[2] != "weight":
        raise SparselthError(f"{weight} is no weight of a layer; reconstruction takes those alone")
    if not plain or getattr(layer, "groups", 1) != 1:
        raise SparselthError(
            f"{weight} is that of a {type(layer).__name__}"
            + (f" of {layer.groups} groups" if plain else "")
            + "; reconstruction takes Linear and Conv2d of one group: exclude it"
        )


def _rows(layer: Any, x: Tensor, draw: torch.Generator) -> Tensor:
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1], 1)
    padding: Any = layer.padding
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if padding == "same" or mode != "constant":
        x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = 0
    padding = 0 if padding == "valid" else padding
    patches = nn.functional.unfold(
        x, layer.kernel_size, dilation=layer.dilation, padding=padding, stride=layer.stride
    )
    count = min(_POSITIONS, patches.shape[2])
    order = torch.rand(len(patches), patches.shape[2], generator=draw).argsort(1)[:, :count]
    places = order.to(patches.device).unsqueeze(1).expand(-1, patches.shape[1], -1)
    chosen = patches.gather(2, places).movedim(2, 1).flatten(0, 1)
    return chosen.view(len(chosen), layer.in_channels, -1)
