"""`sparselth profile`."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from ..errors import SparselthError
from .shared import MODELS, set_threads


def profile(
    model: Annotated[str, typer.Argument(help=MODELS)],
    sparsity: Annotated[float, typer.Option(help="Of magnitude masks, per layer.")] = 0.95,
    batch: Annotated[int, typer.Option(help="Images per step.")] = 128,
    image: Annotated[int, typer.Option(help="Height and width.")] = 32,
    channels: Annotated[int, typer.Option(help="Of the images.")] = 3,
    classes: Annotated[int, typer.Option(help="That the network tells apart.")] = 10,
    width: Annotated[float, typer.Option(help="Multiplies the channels of the model.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Time sparse against dense in every layer of a network, and show which is used."""
    from .. import models
    from ..nn import profile as profiled
    from ..nn import sparsify
    from ..pruning import find_masks

    if batch < 1 or image < 1:
        raise SparselthError(f"got --batch {batch} and --image {image}; both must be positive")
    set_threads(threads)
    network = models.build(model, classes, channels, width)
    sparsify(network, find_masks(network, sparsity=sparsity))
    print(profiled(network, torch.randn(batch, channels, image, image)))
