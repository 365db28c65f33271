"""Run a study: every cell once, from where the last start left off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import data as data_sets
from ..data import ImageSet
from ..errors import SparselthError
from ..ops import use_choice
from ..pruning import prunable_parameters
from ..training import CheckpointFolder, EpochRecord, History, train
from ..training.resume import load_weights
from .cells import Cell, cells, initial_weights, new_model
from .config import StudyConfig
from .environment import environment, warn_if_changed
from .folder import RunFolder, opened
from .generators import GENERATORS, TRAINED_EPOCHS, FoundMasks, MaskJob
from .overlaps import overlap_rows
from .plots import draw_plots
from .progress import Progress, Silent
from .protocols import PROTOCOLS, StartingPoints
from .summary import history_rows, summarise, summary_rows
from .timing import measure

Weights = dict[str, Tensor]


def run(
    config: StudyConfig,
    out_dir: str | Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the study and return its summary, which is also in `out_dir/summary.json`.

    What `out_dir` already holds of the same study is loaded, not repeated: a study that was killed
    goes on and ends with the numbers it would have had. `device` is "auto" (a GPU if there is
    one), "cpu" or "cuda".

    Raises `SparselthError` when the data set is not there, `out_dir` holds another study, a loss
    is not finite, or a checkpoint is damaged beyond use.
    """
    place = _device(device)
    images = data_sets.load(config.data, config.data_root or None)
    images = images.limited(config.train_limit, config.test_limit)
    with opened(out_dir, config) as folder:
        return _Study(config, folder, images, place, progress or Silent()).run()


class _Study:
    """The state of a study while it runs."""

    def __init__(
        self,
        config: StudyConfig,
        folder: RunFolder,
        images: ImageSet,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.config = config
        self.folder = folder
        self.images = images
        self.device = device
        self.progress = progress
        self.prunable = list(prunable_parameters(new_model(config, images, 0, "theta_0")))
        self.histories: dict[Cell, History] = {}
        self.found: dict[Cell, FoundMasks] = {}
        self.overlaps: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        here = environment(self.device)
        warn_if_changed(self.folder.read_json("environment.json"), here)
        self.folder.write_json("environment.json", here)
        with self.progress:
            self.progress.plan(dict(cells(self.config)))
            for seed in self.config.seeds:
                for learning_rate in self.config.learning_rates:
                    self._branch(learning_rate, seed)
            timing = self._timing()
        summary = summarise(self.config, self.histories, self.found, self.overlaps, timing, here)
        self.folder.write_table("overlaps.csv", summary["overlaps"])
        self.folder.write_table("timing.csv", timing)
        self.folder.write_table("summary.csv", summary_rows(summary))
        draw_plots(summary, self.folder)
        self.folder.write_json("summary.json", summary)  # last: where it stands, all is there
        return summary

    def _branch(self, learning_rate: float, seed: int) -> None:
        """Run everything that shares one pre-trained network."""
        config = self.config
        theta_0 = self._drawn(seed, "theta_0")
        points = StartingPoints(
            theta_0=theta_0,
            theta_0_prime=self._drawn(seed, "theta_0_prime"),
            theta_T=self._trained(Cell(learning_rate, seed), theta_0, "pretrain"),
        )
        dense = self._prunable(points.theta_T)
        self.overlaps += overlap_rows(
            {"theta_0, theta_T": (self._prunable(theta_0), dense)}, Cell(learning_rate, seed)
        )
        for generator in config.generators:
            for sparsity in config.sparsities:
                place = (learning_rate, seed, generator, sparsity)
                masks = self._masks(Cell(*place, "search"), points.theta_T)
                trained = {
                    name: self._trained(Cell(*place, name), PROTOCOLS[name](points), "train", masks)
                    for name in config.protocols
                }
                if "finetune" in trained:
                    self._compare(Cell(*place, "finetune"), points, trained["finetune"], masks)

    def _compare(self, cell: Cell, points: StartingPoints, tuned: Weights, masks: Weights) -> None:
        """Compute the overlaps of pruning & fine-tuning with what it might have come from."""
        final = self._prunable(tuned)
        inherited = self._prunable(points.theta_0)
        dense = self._prunable(points.theta_T)
        shared = {
            "theta_0*m, (theta_T*m)_T": (inherited, final),
            "theta_0'*m, (theta_T*m)_T": (self._prunable(points.theta_0_prime), final),
            "theta_T*m, (theta_T*m)_T": (dense, final),
        }
        self.overlaps += overlap_rows(shared, cell, masks)
        against_dense = {
            "theta_0, (theta_T*m)_T": (inherited, final),
            "theta_T, (theta_T*m)_T": (dense, final),
        }
        # Beyond that share the sparse network has no weights left to compare.
        self.overlaps += overlap_rows(against_dense, cell, largest=1 - cell.sparsity)

    def _drawn(self, seed: int, draw: str) -> Weights:
        """Return an initialisation, kept on disk so that another torch cannot redraw it."""
        checkpoints = self.folder.checkpoints(f"init/seed{seed}/{draw}")
        found = checkpoints.load()
        if found is None:
            weights = initial_weights(self.config, self.images, seed, draw)
            checkpoints.save(0, {"model": weights})
            return weights
        drawn: Weights = found[1]["model"]
        return drawn

    def _trained(
        self, cell: Cell, start: Weights, stage: str, masks: Weights | None = None
    ) -> Weights:
        """Train a cell from `start` and return the weights it ends with."""
        model = self._model(start)
        checkpoints = self.folder.checkpoints(cell.folder)
        self.progress.begin(cell, done=_epochs_done(checkpoints))
        self.histories[cell] = train(
            model,
            self.images,
            self.config.recipe(cell.learning_rate, cell.seed, stage),
            masks=_to(masks, self.device),
            checkpoint=checkpoints.path,
            device=self.device,
            on_epoch_end=self._on_epoch_end(cell),
        )
        self._finish(cell)
        return load_weights(checkpoints)

    def _masks(self, cell: Cell, theta_T: Weights) -> Weights:
        """Find the masks of a cell, or load them."""
        checkpoints = self.folder.checkpoints(cell.folder.replace("search", "masks"))
        search = self.folder.checkpoints(cell.folder)
        trains = TRAINED_EPOCHS[cell.generator](self.config) > 0
        if trains:
            self.progress.begin(cell, done=_epochs_done(search))
        found = checkpoints.load()
        if found is None:
            job = MaskJob(
                config=self.config,
                model=self._model(theta_T),
                data=self.images,
                seed=cell.seed,
                sparsity=cell.sparsity,
                checkpoint=search.path,
                on_epoch_end=self._on_epoch_end(cell),
            )
            result = GENERATORS[cell.generator](job)
            checkpoints.save(0, _describe(result))
            found = checkpoints.load()
            assert found is not None
        state = found[1]
        self.found[cell] = FoundMasks(
            state["masks"], History.from_rows(state["history"]), state["report"]
        )
        if trains:
            self.histories[cell] = self.found[cell].history
            self._finish(cell)
        return self.found[cell].masks

    def _finish(self, cell: Cell) -> None:
        self.progress.end(cell, self.histories[cell])
        self.folder.write_table("history.csv", history_rows(self.histories))

    def _on_epoch_end(self, cell: Cell) -> Callable[[EpochRecord], None]:
        return lambda record: self.progress.epoch(cell, record)

    def _timing(self) -> list[dict[str, Any]]:
        """Time sparse against dense training, once per run folder."""
        known: list[dict[str, Any]] | None = self.folder.read_json("timing.json")
        if known is not None:
            return known
        rows = []
        for sparsity in self.config.sparsities:
            cell = next(c for c in self.found if c.sparsity == sparsity)
            self.progress.note(f"timing sparse against dense at {100 * sparsity:g} %")
            trained = load_weights(
                self.folder.checkpoints(Cell(cell.learning_rate, cell.seed).folder)
            )
            model = self._model(trained)
            masks = _to(self.found[cell].masks, self.device)
            assert masks is not None
            with use_choice(self.config.choice):  # what training did
                rows.append(measure(self.config, model, masks, self.images, sparsity))
        self.folder.write_json("timing.json", rows)
        return rows

    def _model(self, weights: Weights) -> nn.Module:
        model = new_model(self.config, self.images, 0, "theta_0").to(self.device)
        model.load_state_dict(weights)
        return model

    def _prunable(self, weights: Weights) -> Weights:
        return {name: weights[name] for name in self.prunable}


def _describe(found: FoundMasks) -> dict[str, Any]:
    return {
        "masks": found.masks,
        "history": found.history.to_rows(),
        "report": found.report,
    }


def _epochs_done(checkpoints: CheckpointFolder) -> int:
    return max(checkpoints.epochs(), default=0)


def _to(tensors: Mapping[str, Tensor] | None, device: torch.device) -> Weights | None:
    return None if tensors is None else {name: t.to(device) for name, t in tensors.items()}


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise SparselthError(f"unknown device '{name}'; known: auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise SparselthError(
            "the device cuda was asked for, but torch sees no GPU here; use --device cpu, or see "
            "'sparselth info'"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")
