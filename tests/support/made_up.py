"""Summaries of studies with made-up accuracies, and histories of trainings."""

import itertools

from sparselth.study import StudyConfig
from sparselth.training import EpochRecord, History

NEARLY = (0.0, 0.1, -0.1)  # over three seeds
WIDE = (0.0, 2.0, -2.0)
SMALL, LARGE = 0.01, 0.1
PLACE = {"model": "resnet20", "data": "mnist5k", "learning_rate": LARGE}


def made(accuracies, overlaps=None, late=0.0, **settings):
    """Return a summary of a study on three seeds, unless one is told other values.

    accuracies: (protocol, learning rate) -> mean, or values by seed; with (generator, sparsity)
    added of one mask alone.  overlaps: (pair, learning rate), likewise.
    """
    config = StudyConfig(
        **{"generators": ("magnitude",), "sparsities": (0.9,), "learning_rates": (SMALL, LARGE)}
        | settings
    )
    place = {"model": config.models[0], "data": config.data[0]}
    summary = {"config": config.to_dict(), "cells": [], "overlaps": []}
    for key, values in accuracies.items():
        for seed, mask, value in _expanded(config, key, values):
            if key[0] == "dense":
                mask = ("", 0.0)
            elif key[0] == "small-dense":
                mask = ("", mask[1])
            row = place | dict(zip(("generator", "sparsity"), mask, strict=True))
            row |= {"protocol": key[0], "learning_rate": key[1], "seed": seed}
            summary["cells"].append(row | {"test_accuracy": value, "late_gain": late})
    for key, values in (overlaps or {}).items():
        for seed, mask, value in _expanded(config, key, values):
            if key[0] == "theta_0, theta_T":
                mask = ("", 0.0)
            row = place | dict(zip(("generator", "sparsity"), mask, strict=True))
            row |= {"pair": key[0], "learning_rate": key[1], "seed": seed}
            summary["overlaps"].append(row | {"p": 0.2, "share_of": "all", "overlap": value})
    return summary


def _expanded(config, key, values):
    if isinstance(values, (int, float)):
        values = [values] * 3
    masks = [key[2:]] if key[2:] else itertools.product(config.generators, config.sparsities)
    if not isinstance(values, dict):
        values = dict(enumerate(values))
    for mask in masks:
        for seed, value in values.items():
            yield seed, mask, value


def about(mean, spread=NEARLY):
    return [mean + part for part in spread]


def history(accuracies, seconds=1.0):
    return History(
        [EpochRecord(i, 0.1, 1.0, 40.0 + i, a, seconds) for i, a in enumerate(accuracies, 1)]
    )
