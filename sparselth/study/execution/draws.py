"""The networks of a study and the weights drawn for them, from a seed and the name of the draw."""

from __future__ import annotations

import traceback

import torch
from torch import Tensor, nn

from ... import data as data_sets
from ... import models
from ...data import ImageFolder, ImageSet
from ...errors import SparselthError
from ...pruning import first_and_last, prunable_parameters
from ...seeds import derive
from ..plan.cells import Setting
from ..plan.config import IMAGE_FOLDER, StudyConfig

DRAWS = ("theta_0", "theta_0_prime", "theta_scratch")


def load_data(config: StudyConfig, name: str) -> ImageSet | ImageFolder:
    """Load a data set of the study, cut to its limits."""
    if name != IMAGE_FOLDER:
        images = data_sets.load(name, config.data_root or None)
        return images.limited(config.train_limit, config.test_limit)
    if not config.data_root:
        raise SparselthError(
            "the data set imagefolder is read from a folder and none was named; pass data_root"
        )
    if config.train_limit or config.test_limit:
        raise SparselthError(
            "an image folder is used whole; leave train_limit and test_limit at 0, or name a "
            "folder of fewer images"
        )
    return ImageFolder(config.data_root)


def new_model(
    config: StudyConfig,
    setting: Setting,
    data: ImageSet | ImageFolder,
    seed: int,
    draw: str,
    width: float | None = None,
) -> nn.Module:
    """Build a network of the study, freshly initialized for `seed` and `draw`.

    width: another than the study's. The caller's random state is left as it was.

    Raises `SparselthError` where it cannot be built, whatever the code that builds it raised.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, draw))
        width = config.width if width is None else width
        try:
            return models.build(setting.model, data.num_classes, data.channels, width)
        except SparselthError:
            raise
        except Exception as error:
            # Code of the user's own, which may raise anything.
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise SparselthError(
                f"model '{setting.model}' cannot be built for {data.num_classes} classes of "
                f"{data.channels}-channel images at width {width:g}: {type(error).__name__}: "
                f"{' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
            ) from error


def initial_weights(
    config: StudyConfig,
    data: ImageSet | ImageFolder,
    seed: int,
    draw: str = "theta_0",
    model: str | None = None,
) -> dict[str, Tensor]:
    """Draw theta_0 (`draw="theta_0"`) or theta_0' (`"theta_0_prime"`) of a seed: a state dict.

    config: the study.  data: one of its sets, for channels and classes.  seed: one of the study's.
    draw: which of `DRAWS`.  model: one of the study's, by default the first. The caller's random
    state is left as it was.

    Raises SparselthError for a model that cannot be built.

    Reference: Liu et al. 2021, arXiv:2102.11068, section 3.
    """
    setting = Setting(model or config.models[0], "")
    return dict(new_model(config, setting, data, seed, draw).state_dict())


def excluded(config: StudyConfig, model: nn.Module) -> tuple[str, ...]:
    """Return the names of the weights that the study leaves dense."""
    first, last = first_and_last(model)
    left = (
        None if config.prune_first else first,
        None if config.prune_classifier else last,
    )
    return tuple(name for name in left if name is not None)


def prunable(config: StudyConfig, model: nn.Module) -> list[str]:
    """Return the names of the weights that the study prunes.

    Raises `SparselthError` when the model has none.
    """
    return list(prunable_parameters(model, exclude=excluded(config, model)))
