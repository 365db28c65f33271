"""What a study is: every choice that decides its numbers, and how it is read from text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ... import data, models
from ...errors import SparselthError, unknown_name
from ...ops.kernel_choice.decide import MODES
from ...pruning import ALLOCATIONS, rho
from ...seeds import derive
from ...settings import changed
from ...training import Recipe
from .names import check_generator, parsed
from .protocols import PROTOCOLS, REWINDING, Terms, check_same_terms
from .settings import StudySettings

# What decides no number may change between two starts: where the files stand, and how results are
# judged.
_NOT_IDENTITY = {"data_root", "thresholds"}

# What `recipes` may not change.
_OF_THE_STUDY = {
    "seed": "the seeds of a study are its own",
    "evaluate_every": "the accuracies of a study are those of every epoch",
    "batch_size": "protocols are compared after the same number of steps",
    "augment": "protocols are compared on the same images",
}

RESETS = ("theta_0", "theta_k", "none")
RHO_SCHEDULES = ("constant", "growing", "staged", "balanced")
IMAGE_FOLDER = "imagefolder"

_GRID = ("models", "data", "learning_rates", "generators", "sparsities", "protocols", "seeds")


@dataclass(frozen=True)
class StudyConfig(StudySettings):
    """A study: model x data x learning rate x mask generator x sparsity x protocol x seed.

    Its arguments, all with defaults, are the fields of `StudySettings`, which explains each; they
    are the paper's settings, where it states them. Every network trains `epochs` epochs with the
    same schedule, as in the paper; only the ADMM generator's search for a mask, and the protocols
    that say so, have their own.

    Raises `SparselthError` for an unknown name, an empty list, a number out of range, or protocols
    that would not train for the same epochs on the same schedule.

    Reference: Liu et al. 2021, arXiv:2102.11068, appendix, training setup.
    """

    def __post_init__(self) -> None:
        for name in _GRID:
            values = getattr(self, name)
            # As folders and tables name them.
            if not values or len({_text(value) for value in values}) != len(values):
                raise SparselthError(
                    f"{name} is {list(values)}; give at least one value, and each only once"
                )
        for model in self.models:
            models.check(model)
        for names in (self.data, tuple(self.thresholds.similar_on)):
            _check_names("data set", names, [*data.REGISTRY, IMAGE_FOLDER])
        _check_names("protocol", self.protocols, PROTOCOLS)
        by_rule = [name for name in ALLOCATIONS if name != "given"]
        _check_names("allocation", (self.allocation,), by_rule)
        _check_names("choice", (self.choice,), MODES)
        _check_names("imp_reset", (self.imp_reset,), RESETS)
        _check_names("admm_rho_schedule", (self.admm_rho_schedule,), RHO_SCHEDULES)
        for generator in self.generators:
            check_generator(parsed(generator)[0], self.allocation)
        super().__post_init__()
        self._check_rewinding()
        self._check_recipes()

    def _check_rewinding(self) -> None:
        if self.keeps_theta_k and not 0 < self.rewind_epoch < self.epochs:
            raise SparselthError(
                f"rewind_epoch is {self.rewind_epoch} of {self.epochs} epochs; what rewinds goes "
                f"back to an epoch between, so choose 1 to {self.epochs - 1}"
            )

    def _check_recipes(self) -> None:
        """Build every recipe once: recipes check their own numbers."""
        for name, settings in self.recipes.items():
            if not isinstance(settings, Mapping):
                raise SparselthError(
                    f"recipes got {settings!r} for {name}, expected 'setting: value' lines below it"
                )
            if name not in self.protocols:
                raise SparselthError(
                    f"recipes names '{name}', which is none of this study's protocols: "
                    f"{', '.join(self.protocols)}"
                )
        for learning_rate in self.learning_rates:
            for protocol in self.protocols:
                own = self.protocol_recipe(protocol, learning_rate, 0, saving=2.0)
                check_same_terms(protocol, own, self.recipe(learning_rate, 0))
        self.admm_recipe(seed=0)
        self.rho_schedule()

    @property
    def keeps_theta_k(self) -> bool:
        """Whether anything goes back to an epoch of pre-training."""
        rewinds = any(protocol in REWINDING for protocol in self.protocols)
        prunes = any(parsed(generator)[0] == "imp" for generator in self.generators)
        return rewinds or (prunes and self.imp_reset == "theta_k")

    def all_generators(self) -> tuple[str, ...]:
        """Return the generators, and before a control the one it takes its masks from.

        Those of a config were checked: their names raise no SparselthError here.
        """
        ordered: dict[str, None] = {}
        for generator in self.generators:
            ordered.setdefault(parsed(generator)[0])
            ordered.setdefault(generator)
        return tuple(ordered)

    def recipe(self, learning_rate: float, seed: int, stage: str = "train") -> Recipe:
        """Return how one network of the study is trained.

        learning_rate: of the first epoch.  seed: of the study; the recipe's is derived from it.
        `stage` is "pretrain" for the dense network and "train" for everything compared. The
        protocols share the order of the images, so that their difference is not one of luck;
        pre-training has another, so that fine-tuning does not see the same order twice.
        """
        return Recipe(
            epochs=self.epochs,
            learning_rate=learning_rate,
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            milestones=self.milestones,
            gamma=self.gamma,
            augment=self.augment,
            precision=self.precision,
            step=self.step,
            choice=self.choice,
            seed=derive(seed, stage),
        )

    def protocol_recipe(
        self, protocol: str, learning_rate: float, seed: int, saving: float
    ) -> Recipe:
        """Return how a protocol trains.

        protocol: a name of `PROTOCOLS`.  learning_rate, seed: as for `recipe`.
        saving: how many times fewer multiplications the masked network takes than the dense one.

        Raises SparselthError where `recipes` sets what belongs to the study, or what is none.
        """
        recipe = self.recipe(learning_rate, seed)
        own = PROTOCOLS[protocol].recipe
        if own is not None:
            recipe = own(recipe, Terms(self.rewind_epoch, saving))
        settings = self.recipes.get(protocol, {})
        for name, reason in _OF_THE_STUDY.items():
            if name in settings:
                raise SparselthError(f"recipes sets the {name} of {protocol}; {reason}")
        return changed(recipe, settings, f"the recipe of {protocol}")

    def admm_recipe(self, seed: int) -> Recipe:
        """Return how ADMM trains while it looks for a mask: at a constant learning rate.

        seed: of the study.
        """
        return dataclasses.replace(
            self.recipe(self.admm_learning_rate, seed, "admm"),
            epochs=self.admm_epochs,
            milestones=(),
        )

    def rho_schedule(self) -> rho.RhoSchedule:
        """Return how ADMM's rho changes; "staged" multiplies it by the growth three times.

        Raises SparselthError on a growth below 1, as making the config does.
        """
        if self.admm_rho_schedule == "growing":
            return rho.growing(self.admm_rho_growth)
        if self.admm_rho_schedule == "staged":
            updates = max(1, self.admm_epochs // self.admm_update_every // 4)
            return rho.staged(updates, factor=self.admm_rho_growth)
        return rho.find_schedule(self.admm_rho_schedule)

    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON holds."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        return values

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """Return in words why this is not the study that `before`, a `to_dict`, describes.

        Empty where it is.
        The lists of the grid may have grown since: more seeds, say, are the same study.
        """
        reasons = [
            f"{name} is {before.get(name, 'missing')} there and {value} here"
            for name, value in self.to_dict().items()
            if name not in _NOT_IDENTITY
            and before.get(name, "missing") != value
            and not (name in _GRID and _within(before.get(name), value))
        ]
        if reasons or not self.keeps_theta_k:
            return reasons
        if self.changed({name: before[name] for name in _GRID}).keeps_theta_k:
            return []
        return ["the pre-training there did not keep what is rewound to here"]

    def changed(self, values: Mapping[str, Any]) -> StudyConfig:
        """Return a copy with some fields set from text, numbers or lists, as flags and YAML give.

        values: field name -> value.

        Raises `SparselthError` for a field that does not exist, naming the nearest one, or a value
        of the wrong kind.
        """
        return changed(self, values, "a study")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyConfig:
        """Convert back from `to_dict`: `values`, field name -> value.

        Raises SparselthError as `changed` does.
        """
        return cls().changed(values)


def _within(before: Any, now: list[Any]) -> bool:
    return isinstance(before, list) and all(value in now for value in before)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON does."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _check_names(kind: str, got: tuple[str, ...], known: Any) -> None:
    for name in got:
        if name not in known:
            raise unknown_name(kind, name, known)
