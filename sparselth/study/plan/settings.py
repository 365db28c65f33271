"""The settings of a study, one by one: what each means, and the numbers it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import SparselthError
from .thresholds import Thresholds


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study; `StudyConfig` is what is made of them.

    The grid, every combination of which is trained:
    models: names of `sparselth.models`, or factories "module:function" of your own.
    data: names of `sparselth.data`, or "imagefolder" for `data_root/train` and `data_root/val`.
    learning_rates: of the first epoch, > 0.
    generators: of masks: "magnitude", "imp" (iterative magnitude pruning), "admm", "random", or
    another score of `find_masks`: "snip", "grasp", "synflow", "fpgm", ..., or "early-bird" and
    "edge-popup"; with "-shuffled" or "-inverted" after it, a control on that one's masks.
    sparsities: shares of the weights to prune, fractions in (0, 1).
    protocols: names of `protocols.PROTOCOLS`: "ticket", "reinit", "finetune", ...
    seeds: of initialization and training; one repetition each.

    Networks and data:
    width: multiplies the channels of the models.
    data_root: folder with the data sets' files; decides no number.
    train_limit, test_limit: images to use, the first ones; 0 for all.

    Masks:
    allocation: how a sparsity is shared among layers: "uniform", "global", "lamp" or "erk".
    prune_first, prune_classifier: whether the first convolution and the last linear layer are
    pruned; the paper leaves the first, and its group's code both.
    imp_rate: share of what is left that each round of iterative pruning removes; the paper states
    none, 0.15 meets the sparsities in its text.
    imp_reset: where the survivors of a round go back to: "theta_0", "theta_k" or "none".
    rewind_epoch: the k of theta_k, in epochs of pre-training.
    score_batches: how many batches of training images a score sees that looks at data.

    Training, the same for every network; see `Recipe`:
    epochs, batch_size, momentum, weight_decay, milestones, gamma, augment, precision, step, choice:
    those of a recipe. With choice="measured", a study that was stopped does not end with the same
    numbers.
    recipes: protocol -> further settings of its recipe, such as {"finetune": {"weight_decay": 0}}.

    ADMM's search for a mask, of which the paper gives no numbers:
    admm_epochs: its length, on top of `epochs`.  admm_update_every: epochs between Z/U updates.
    admm_learning_rate: constant while it lasts.
    admm_rho: the penalty's weight at the start.  admm_rho_schedule: "constant", "growing", "staged"
    or "balanced".  admm_rho_growth: the factor of "growing" and "staged", at every update and at
    each of three stages.

    Reports:
    timing_steps: training steps of a round of timing.  timing_rounds: rounds, of which the median
    counts.
    thresholds: when accuracies count as similar or different; decide no number.

    Raises SparselthError for a number out of range.
    """

    models: tuple[str, ...] = ("resnet20",)
    width: float = 1.0
    data: tuple[str, ...] = ("mnist5k",)
    data_root: str = ""
    train_limit: int = 0
    test_limit: int = 0
    learning_rates: tuple[float, ...] = (0.01, 0.1)
    generators: tuple[str, ...] = ("magnitude", "admm")
    sparsities: tuple[float, ...] = (0.9, 0.95)
    protocols: tuple[str, ...] = ("ticket", "reinit", "finetune")
    seeds: tuple[int, ...] = (0,)
    allocation: str = "uniform"
    prune_first: bool = False
    prune_classifier: bool = False
    epochs: int = 150
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (80 / 150, 120 / 150)
    gamma: float = 0.1
    augment: bool = True
    precision: str = "fp32"
    step: str = "eager"
    choice: str = "fixed"
    rewind_epoch: int = 10
    imp_rate: float = 0.15
    imp_reset: str = "theta_0"
    score_batches: int = 4
    admm_epochs: int = 60
    admm_update_every: int = 5
    admm_learning_rate: float = 0.01
    admm_rho: float = 1e-3
    admm_rho_schedule: str = "growing"
    admm_rho_growth: float = 1.3
    timing_steps: int = 10
    timing_rounds: int = 7
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        self._check_numbers()

    def _check_numbers(self) -> None:
        if any(not 0 < sparsity < 1 for sparsity in self.sparsities):
            raise SparselthError(
                f"sparsities are {list(self.sparsities)}; each is the share of weights to prune, "
                "above 0 and below 1"
            )
        if not self.width > 0 or not self.admm_rho > 0:
            raise SparselthError(
                f"width is {self.width} and admm_rho {self.admm_rho}; both must be above 0"
            )
        if not 0 < self.imp_rate < 1:
            raise SparselthError(
                f"imp_rate is {self.imp_rate}; it is the share of the weights left that a round "
                "prunes, above 0 and below 1"
            )
        counts = ("admm_epochs", "admm_update_every", "score_batches")
        for name in (*counts, "timing_steps", "timing_rounds"):
            if getattr(self, name) < 1:
                raise SparselthError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.admm_update_every > self.admm_epochs:
            raise SparselthError(
                f"admm_update_every is {self.admm_update_every}, more than the {self.admm_epochs} "
                "admm_epochs, so ADMM would never project; lower the one or raise the other"
            )
