"""Studies by name."""

from __future__ import annotations

from ..errors import unknown_name
from .config import StudyConfig

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
    # The paper's settings; needs a folder with CIFAR-10, and a GPU or patience.
    "paper": StudyConfig(
        data="cifar10",
        sparsities=(0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
        seeds=(0, 1, 2, 3, 4),
        timing_steps=50,
    ),
}


def preset(name: str) -> StudyConfig:
    """Return a preset. Raises `SparselthError`, naming the known ones, when there is none."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
