"""The paper's numbers, to stand beside those of a study on the same networks and data.

Values as the text quotes them; its figures are not available as numbers. All after 150 epochs.

Reference: Liu et al. 2021, sections 3 and 4, table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..plan.percentages import MAIN_P
from .intervals import Difference, mean_of
from .overlaps import AGAINST_THETA_0, AGAINST_THETA_T
from .results import Results


@dataclass(frozen=True)
class Expected:
    """One number of the paper: an accuracy in percent, or of a pair an overlap in [0, 1]."""

    model: str
    data: str
    learning_rate: float
    value: float
    protocol: str = "dense"
    generator: str = ""
    sparsity: float = 0.0
    pair: str = ""

    @property
    def mask(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.data,
            "generator": self.generator,
            "sparsity": self.sparsity,
        }

    @property
    def label(self) -> str:
        """Say what it is of."""
        what = f"R_{MAIN_P:g} of {self.pair}" if self.pair else self.protocol
        mask = f", {self.generator} {100 * self.sparsity:g} %" if self.generator else ""
        return f"{what}{mask}, learning rate {self.learning_rate:g}"


def _dense(model: str, data: str, small: float, large: float) -> list[Expected]:
    return [Expected(model, data, 0.01, small), Expected(model, data, 0.1, large)]


def _table_1(model: str, data: str, theta_0: float, theta_T: float) -> list[Expected]:
    place = ("finetune", "admm", 0.5)
    return [
        Expected(model, data, 0.1, theta_0, *place, AGAINST_THETA_0),
        Expected(model, data, 0.1, theta_T, *place, AGAINST_THETA_T),
    ]


EXPECTED: list[Expected] = [
    *_dense("resnet20", "cifar10", 89.62, 91.7),
    *_dense("mobilenetv2", "cifar10", 92.20, 93.86),
    *_dense("resnet20", "cifar100", 63.10, 67.15),
    *_dense("mobilenetv2", "cifar100", 73.10, 74.76),
    *_dense("vgg11", "cifar100", 67.74, 69.83),
    Expected("resnet20", "cifar10", 0.01, 90.04, "ticket", "imp", 0.623),
    Expected("mobilenetv2", "cifar100", 0.1, 76.04, "finetune", "admm", 0.386),
    *_table_1("resnet20", "cifar100", 0.2036, 0.6397),
    *_table_1("mobilenetv2", "cifar100", 0.2011, 0.6471),
    *_table_1("vgg11", "cifar100", 0.2041, 0.4932),
    *_table_1("mobilenetv2", "cifar10", 0.2026, 0.4936),
    *_table_1("vgg11", "cifar10", 0.2021, 0.4808),
]


def beside_the_paper(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """List the paper's numbers for the networks and data of a study, each with what was measured.

    `measured` is the mean over seeds, with its confidence interval; None where the study has no
    such cell. Empty for a study of other networks or data, or of another width.
    """
    results = Results(summary)
    if summary["config"]["width"] != 1.0:
        return []
    rows = []
    for expected in EXPECTED:
        if expected.model in results.config["models"] and expected.data in results.config["data"]:
            measured = _measured(results, expected)
            rows.append(
                {
                    "model": expected.model,
                    "data": expected.data,
                    "what": expected.label,
                    "paper": expected.value,
                    "measured": None if measured is None else measured.mean,
                    "low": measured.low if measured and measured.has_interval else None,
                    "high": measured.high if measured and measured.has_interval else None,
                    "seeds": 0 if measured is None else measured.seeds,
                }
            )
    return rows


def _measured(results: Results, expected: Expected) -> Difference | None:
    rate = expected.learning_rate
    if expected.pair:
        values = results.overlaps(expected.mask, expected.pair, MAIN_P, rate)
    else:
        values = results.accuracies(expected.mask, expected.protocol, rate)
    return mean_of(list(values.values()), results.thresholds.confidence)
