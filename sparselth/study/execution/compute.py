"""Compute one cell of a study: where it starts, how it trains, and what it leaves in the folder.

A cell that was computed before is only loaded, and one that was stopped goes on; so a cell may be
computed any number of times, by any process that sees the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data import ImageFolder, ImageSet
from ...pruning import check_alive, find_masks, shuffled_weights
from ...pruning.flops import multiplications
from ...seeds import derive
from ...training import (
    Callback,
    CheckpointError,
    CheckpointFolder,
    EpochRecord,
    History,
    KeepEpoch,
    train,
)
from ...training.resume import load_weights
from ..plan.cells import DENSE, MASKS, ROUND, Cell, needs
from ..plan.config import StudyConfig
from ..plan.names import AT_INIT, SCORED, TRAINED, parsed
from ..plan.protocols import PROTOCOLS
from . import cost
from .draws import excluded, load_data, new_model, prunable
from .folder import RunFolder, alone
from .generators import GENERATORS, FoundMasks, MaskJob, controlled
from .trace import OverlapTrace, read_trace

Weights = dict[str, Tensor]


class Work:
    """Computes cells of one study, one after the other; keeps the data sets it has loaded."""

    def __init__(self, config: StudyConfig, folder: Path, device: torch.device) -> None:
        self.config = config
        self.folder = RunFolder(folder)
        self.device = device
        self._data: dict[str, ImageSet | ImageFolder] = {}
        self._prunable: dict[str, list[str]] = {}

    def data(self, name: str) -> ImageSet | ImageFolder:
        if name not in self._data:
            self._data = {name: load_data(self.config, name)}  # one at a time: they are large
        return self._data[name]

    def compute(
        self, cell: Cell, on_epoch_end: Callable[[EpochRecord], None] | None = None
    ) -> None:
        """Compute a cell whose needs are there; waits while another process is at it."""
        with alone(self.folder.checkpoints(cell.folder).path):
            if cell.protocol == MASKS:
                self._find_masks(cell, on_epoch_end)
            elif cell.protocol == ROUND:
                self._round(cell, on_epoch_end)
            else:
                self._train(cell, on_epoch_end)

    def _train(self, cell: Cell, on_epoch_end: Callable[[EpochRecord], None] | None) -> None:
        config, data = self.config, self.data(cell.data)
        checkpoint = self.folder.checkpoints(cell.folder).path
        callbacks: list[Callback] = []
        masks = None
        if cell.protocol == DENSE:
            model = self._model(cell, self.drawn(cell, "theta_0"))
            recipe = config.recipe(cell.learning_rate, cell.seed, "pretrain")
            if config.keeps_theta_k:
                callbacks.append(KeepEpoch(self._theta_k(cell).path, config.rewind_epoch))
        elif not PROTOCOLS[cell.protocol].masked:
            model = self.small_dense(cell)[0].to(self.device)
            recipe = config.protocol_recipe(cell.protocol, cell.learning_rate, cell.seed, 1.0)
        else:
            masks = self.masks(cell)
            model = self._model(cell, self.start(cell, masks))
            counts = multiplications(model, _image(data, self.device))
            recipe = config.protocol_recipe(
                cell.protocol, cell.learning_rate, cell.seed, cost.saving(counts, masks)
            )
        if _traced(cell):
            start = {
                name: model.get_parameter(name).detach().clone() for name in self.prunable(cell)
            }
            callbacks.append(OverlapTrace(self._trace(cell), start))
        train(
            model,
            data,
            recipe,
            masks=None if masks is None else {n: m.to(self.device) for n, m in masks.items()},
            checkpoint=checkpoint,
            device=self.device,
            callbacks=callbacks,
            on_epoch_end=on_epoch_end,
        )

    def _round(self, cell: Cell, on_epoch_end: Callable[[EpochRecord], None] | None) -> None:
        """Cut what the round before left, put the survivors back, and train them."""
        config = self.config
        before = self.trained(cell.imp_round(cell.round - 1, config.imp_rate))
        model = self._model(cell, before)
        masks = find_masks(
            model,
            sparsity=cell.sparsity,
            allocation=config.allocation,
            exclude=excluded(config, model),
        )
        if config.imp_reset == "theta_0":
            model.load_state_dict(self.drawn(cell, "theta_0"))
        elif config.imp_reset == "theta_k":
            model.load_state_dict(self.theta_k(cell))
        train(
            model,
            self.data(cell.data),
            config.recipe(cell.learning_rate, cell.seed, f"round {cell.round}"),
            masks=masks,
            checkpoint=self.folder.checkpoints(cell.folder).path,
            device=self.device,
            on_epoch_end=on_epoch_end,
        )

    def _find_masks(self, cell: Cell, on_epoch_end: Callable[[EpochRecord], None] | None) -> None:
        checkpoints = self.folder.checkpoints(cell.folder)
        if checkpoints.load() is not None:
            return
        config = self.config
        base, control = parsed(cell.generator)
        initial = self.drawn(cell, "theta_0") if base in (*SCORED, *TRAINED) else {}
        model = self._model(cell, self._ranked(cell, base, control, initial))
        job = MaskJob(
            config=config,
            model=model,
            initial=initial,
            data=self.data(cell.data),
            learning_rate=cell.learning_rate,
            seed=cell.seed,
            sparsity=cell.sparsity,
            exclude=excluded(config, model),
            device=self.device,
            checkpoint=self.folder.checkpoints(cell.sibling("search").folder).path,
            on_epoch_end=on_epoch_end,
        )
        if control:
            source = Cell(**{**cell.place(), "generator": base}, protocol=MASKS)
            result = controlled(base, control, self.found(source).masks, job)
        else:
            result = GENERATORS[base](job)
        check_alive(result.masks)
        checkpoints.save(
            0,
            {"masks": result.masks, "history": result.history.to_rows(), "report": result.report},
        )

    def _ranked(self, cell: Cell, base: str, control: str, initial: Weights) -> Weights:
        """Return the weights that a search for masks looks at."""
        if base in AT_INIT:
            return initial
        if control:
            return self.trained(cell.dense())
        (start,) = needs(self.config, cell)
        return self.trained(start)

    # What other cells, or nobody, computed before.

    def draw(self, cell: Cell, name: str) -> None:
        """Draw an initialization and keep it, so that another torch cannot draw it anew."""
        checkpoints = self._draws(cell, name)
        if checkpoints.load() is None:
            model = new_model(self.config, cell.setting, self.data(cell.data), cell.seed, name)
            checkpoints.save(0, {"model": dict(model.state_dict())})

    def drawn(self, cell: Cell, name: str) -> Weights:
        """Load an initialization."""
        return load_weights(self._draws(cell, name))

    def trained(self, cell: Cell) -> Weights:
        """Load the weights that a cell ended with."""
        return load_weights(self.folder.checkpoints(cell.folder))

    def theta_k(self, cell: Cell) -> Weights:
        """Load the pre-trained network as it was after epoch k."""
        try:
            return load_weights(self._theta_k(cell))
        except CheckpointError as error:
            dense = self.folder.checkpoints(cell.dense().folder).path
            raise CheckpointError(
                f"the weights after epoch {self.config.rewind_epoch} are lost ({error}); only "
                f"pre-training makes them: delete {dense} and {self._theta_k(cell).path} and start "
                "again"
            ) from None

    def found(self, cell: Cell) -> FoundMasks:
        """Load what a search found."""
        loaded = self.folder.checkpoints(cell.folder).load()
        if loaded is None:
            raise CheckpointError(f"there are no masks of {cell.label} yet")
        state = loaded[1]
        return FoundMasks(state["masks"], History.from_rows(state["history"]), state["report"])

    def masks(self, cell: Cell) -> Weights:
        """Load the masks that a cell trains on."""
        return self.found(cell.sibling(MASKS)).masks

    def start(self, cell: Cell, masks: Weights) -> Weights:
        """Load or make the weights that a protocol starts from, of the dense network."""
        start = PROTOCOLS[cell.protocol].start
        if start == "theta_T":
            return self.trained(cell.dense())
        if start == "theta_k":
            return self.theta_k(cell)
        if start == "theta_0_shuffled":
            theta_0 = self.drawn(cell, "theta_0")
            return shuffled_weights(theta_0, masks, derive(cell.seed, "shuffled init"))
        return self.drawn(cell, start)

    def history(self, cell: Cell) -> History | None:
        """Load what happened in a cell; None unless it is complete and intact."""
        loaded = self.folder.checkpoints(cell.folder).load()
        if loaded is None:
            return None
        state = loaded[1]
        history = History.from_rows(state["history"])
        if cell.protocol != MASKS and len(history) < state["recipe"]["epochs"]:
            return None
        # A kill may have come between the last checkpoint and what follows it.
        rows = self.trace(cell)
        if _traced(cell) and (not rows or rows[-1]["epoch"] < len(history)):
            return None
        return history

    def trace(self, cell: Cell) -> list[dict[str, Any]]:
        """Load R_p of a cell after each epoch, against where it started."""
        return read_trace(self._trace(cell))

    def model(self, cell: Cell) -> nn.Module:
        """Build the network of a cell, on the study's device."""
        model = new_model(self.config, cell.setting, self.data(cell.data), 0, "theta_0")
        return model.to(self.device)

    def prunable(self, cell: Cell) -> list[str]:
        """Return the names of the weights that are pruned in the network of a cell."""
        if cell.model not in self._prunable:
            self._prunable[cell.model] = prunable(self.config, self.model(cell))
        return self._prunable[cell.model]

    def small_dense(self, cell: Cell) -> tuple[nn.Module, int]:
        """Build the dense network nearest to what a mask leaves, and count what that is."""

        def build(width: float) -> nn.Module:
            data = self.data(cell.data)
            return new_model(self.config, cell.setting, data, cell.seed, "small", width)

        whole = build(self.config.width)
        named = dict(whole.named_parameters())
        pruned = sum(named[name].numel() for name in prunable(self.config, whole)) * cell.sparsity
        target = cost.parameters(whole) - round(pruned)
        return build(cost.width_for(build, target, self.config.width)), target

    def _model(self, cell: Cell, weights: Weights) -> nn.Module:
        model = self.model(cell)
        model.load_state_dict(weights)
        return model

    def _trace(self, cell: Cell) -> Path:
        return self.folder.checkpoints(cell.folder).path / "overlap.json"

    def _draws(self, cell: Cell, name: str) -> CheckpointFolder:
        return self.folder.checkpoints(f"init/{cell.setting.folder}/seed{cell.seed}/{name}")

    def _theta_k(self, cell: Cell) -> CheckpointFolder:
        return self.folder.checkpoints(f"{cell.dense().folder}-epoch-k")


def _traced(cell: Cell) -> bool:
    """Say whether a cell has weights to compare with those it started from, mask by mask."""
    return cell.protocol == DENSE or (cell.trained and PROTOCOLS[cell.protocol].masked)


def _image(data: ImageSet | ImageFolder, device: torch.device) -> Tensor:
    """Return an empty image of a data set's size."""
    if isinstance(data, ImageFolder):
        return torch.zeros(1, data.channels, data.image_size, data.image_size, device=device)
    return torch.zeros(1, *data.train_images.shape[1:], device=device)
