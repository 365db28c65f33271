"""What goes into a layer on data, as the rows of a least-squares problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import called
from ...errors import SparselthError
from ...nn.kinds import kind_of
from .maps import input_of, layers_of

# Of a feature map, as many positions as the paper samples per image.
_POSITIONS = 10


@torch.no_grad()
def layer_inputs(model: nn.Module, weight: str, data: Iterable[Any]) -> Iterator[Tensor]:
    """Yield, for each batch, what the filters of a weight's layer are multiplied with.

    Of a convolution ten positions of each example's output, drawn with a seed of their own: the
    same ones each time. In evaluation mode.
    Yields (examples * positions, C_in, taps), float64, such that the output without its bias is the
    sum of products with the weight (C_out, C_in, taps).

    Raises SparselthError for layers other than convolutions of one group and linear ones, and for
    no batch.
    """
    model = getattr(model.eval(), "_orig_mod", model)
    layer = layers_of(model, [weight])[weight]
    check_reconstructed(weight, layer)
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    draw = torch.Generator().manual_seed(0)
    number = -1
    try:
        for number, batch in enumerate(data):
            called(model, [input_of(batch)], f"the x of batch {number}")
            if not seen:
                raise SparselthError(f"the layer of {weight!r} is not called; exclude it")
            for x in seen:
                yield _rows(layer, x.double(), draw)
            seen.clear()
    finally:
        hook.remove()
    if number < 0:
        raise SparselthError("data holds no batch; a score of reconstruction wants at least one")


def check_reconstructed(weight: str, layer: nn.Module) -> None:
    """Require a layer whose output is one matrix product of patches of its input."""
    kind = kind_of(layer)
    plain = kind is not None and kind.plain in (nn.Linear, nn.Conv2d)
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
