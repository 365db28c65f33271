"""Studies by name."""

from __future__ import annotations

import dataclasses

from ...errors import unknown_name
from .config import StudyConfig
from .names import CONTROLS, SCORED, TRAINED

# 39, 62, 70, 80 and 85 % are quoted in the text; those of iterative pruning are whole rounds of
# 15 %, and 50 % is that of table 1.
_PAPER_SPARSITIES = (0.386, 0.5, 0.623, 0.7, 0.803, 0.85)

_PAPER = StudyConfig(
    models=("resnet20", "vgg11", "mobilenetv2"),
    generators=("imp", "admm", "magnitude"),
    sparsities=_PAPER_SPARSITIES,
    protocols=("ticket", "reinit", "finetune"),
    seeds=(0, 1, 2, 3, 4),
    timing_steps=50,
)

_DIGITS = StudyConfig(
    models=("vgg11",),
    width=0.125,
    generators=("magnitude", "imp", "admm"),
    # Whole rounds of iterative pruning.
    sparsities=(0.623, 0.803, 0.897, 0.946),
    protocols=("ticket", "reinit", "finetune", "rewind", "small-dense"),
    seeds=(0, 1, 2, 3, 4),
    batch_size=64,
    augment=False,
    epochs=5,
    rewind_epoch=1,
    admm_epochs=5,
    admm_update_every=1,
    admm_learning_rate=0.02,
    admm_rho_growth=5.0,
)

_CHECKED = ("magnitude", "snip", "grasp", "synflow")
_CONTROLS = tuple(f"-{control}" for control in CONTROLS)

PRESETS: dict[str, StudyConfig] = {
    # Minutes on two cores: small enough to watch, long enough that the networks learn.
    "demo": StudyConfig(
        width=0.5,
        train_limit=1200,
        test_limit=500,
        batch_size=32,
        augment=False,
        epochs=5,
        admm_epochs=3,
        admm_update_every=1,
        admm_learning_rate=0.05,
        admm_rho_growth=8.0,
        timing_steps=6,
        timing_rounds=5,
    ),
    # Seconds: every part of a study runs once; the numbers mean nothing.
    "smoke": StudyConfig(
        width=0.25,
        train_limit=256,
        test_limit=200,
        batch_size=64,
        learning_rates=(0.1,),
        sparsities=(0.9,),
        epochs=2,
        admm_epochs=1,
        admm_update_every=1,
        timing_steps=2,
        timing_rounds=3,
    ),
    # Hours on two cores: what is under results/.
    "mnist5k": _DIGITS,
    # Below the ceiling of accuracy; slower to learn, hence longer and on fewer masks.
    "mnist5k-textured": dataclasses.replace(
        _DIGITS,
        data=("mnist5k-textured",),
        generators=("magnitude", "admm"),
        sparsities=(0.623, 0.803, 0.946),
        epochs=8,
        admm_epochs=8,
    ),
    # The sanity checks of Frankle et al. 2021, arXiv:2009.08576: is it more of a mask than how many
    # weights it leaves in each layer? Scores at initialization, and magnitudes after training, each
    # against its masks shuffled within layers, the weights drawn anew, and its score inverted.
    "sanity": dataclasses.replace(
        _DIGITS,
        generators=(
            *(f"{name}{control}" for name in _CHECKED for control in ("", *_CONTROLS)),
            "random",
        ),
        allocation="global",
        learning_rates=(0.1,),
        sparsities=(0.98,),
        protocols=("ticket", "reinit"),
    ),
    # Every score, early birds and edge-popup, fine-tuned: what `docs/methods.md` tells of them.
    "scores": dataclasses.replace(
        _DIGITS,
        generators=("magnitude", "random", *SCORED, *TRAINED),
        learning_rates=(0.1,),
        sparsities=(0.75,),
        protocols=("finetune",),
        seeds=(0, 1, 2),
    ),
    # The paper's settings. They need folders with CIFAR, and GPUs; narrow them by --models.
    "paper-cifar10": dataclasses.replace(_PAPER, data=("cifar10",)),
    "paper-cifar100": dataclasses.replace(_PAPER, data=("cifar100",)),
    # Appendix F: overlaps of the fine-tuned network with both dense ones.
    "paper-table1": dataclasses.replace(
        _PAPER,
        data=("cifar10", "cifar100"),
        learning_rates=(0.1,),
        generators=("admm",),
        sparsities=(0.5,),
        protocols=("finetune",),
    ),
    # Appendix G: rewinding to epoch 10.
    "paper-rewinding": dataclasses.replace(
        _PAPER,
        data=("cifar100",),
        learning_rates=(0.1,),
        generators=("admm",),
        protocols=("ticket", "finetune", "rewind"),
    ),
}


def preset(name: str) -> StudyConfig:
    """Return a study by its name in `PRESETS`: "demo", "smoke", "paper-cifar10", ...

    name: of the preset.

    Raises `SparselthError`, naming the known ones, when there is none.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
