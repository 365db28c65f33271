"""The cells of a study: everything it trains or looks for, what each needs first, and in which
order they run. What several others need is a cell of its own, and so is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .config import StudyConfig
from .names import TRAINED, after_rounds, parsed, rounds_to
from .protocols import PROTOCOLS

DENSE, MASKS, ROUND = "dense", "masks", "round"


@dataclass(frozen=True)
class Setting:
    """A network on a data set."""

    model: str
    data: str

    @property
    def folder(self) -> str:
        # A factory's colon, or a path, is no name of a folder.
        return f"{self.model.replace(':', '.')}/{self.data}"


@dataclass(frozen=True)
class Cell:
    """One part of a study.

    model, data, learning_rate, seed: its place in the grid.
    protocol: "dense" for pre-training, "round" for one of iterative pruning, "masks" for the search
    of a mask, or one of `PROTOCOLS`.  generator, sparsity: of the mask; a dense cell has neither,
    and a small dense network the sparsity alone.  round: of iterative pruning, from 1.
    """

    model: str
    data: str
    learning_rate: float
    seed: int
    generator: str = ""
    sparsity: float = 0.0
    protocol: str = DENSE
    round: int = 0

    @property
    def setting(self) -> Setting:
        """The network and the data set it is of."""
        return Setting(self.model, self.data)

    @property
    def trained(self) -> bool:
        """Whether it is a network whose accuracy is compared."""
        return self.protocol not in (MASKS, ROUND)

    @property
    def folder(self) -> str:
        """Where its checkpoints stand, below the folder of all checkpoints."""
        branch = f"{self.setting.folder}/lr{self.learning_rate:g}/seed{self.seed}"
        if self.protocol == DENSE:
            return f"{branch}/dense"
        if self.protocol == ROUND:
            return f"{branch}/imp/round-{self.round}"
        masks = f"{self.generator}-{self.sparsity:g}" if self.generator else f"{self.sparsity:g}"
        return f"{branch}/{masks}/{self.protocol}"

    @property
    def label(self) -> str:
        """What a person reads while it runs."""
        start = f"{self.model} on {self.data}, lr {self.learning_rate:g}, seed {self.seed}, "
        if self.protocol == DENSE:
            return start + "dense pre-training"
        if self.protocol == ROUND:
            return start + f"imp, round {self.round}"
        return start + f"{self.generator} {100 * self.sparsity:g} %, {self.protocol}".lstrip()

    def place(self) -> dict[str, Any]:
        """Return what of the grid it is, as the tables name it."""
        values = asdict(self)
        del values["round"], values["protocol"]
        return values

    def sibling(self, protocol: str) -> Cell:
        """Return another cell of the same mask.  protocol: what is done with it."""
        return Cell(**self.place(), protocol=protocol)

    def dense(self) -> Cell:
        """Return the pre-training it descends from."""
        return Cell(self.model, self.data, self.learning_rate, self.seed)

    def imp_round(self, number: int, rate: float) -> Cell:
        """Return a round of the iterative pruning it descends from; round 0 is pre-training.

        number: of the round.  rate: share of what is left that each round removes.
        """
        if number == 0:
            return self.dense()
        reached = after_rounds(number, rate)
        place = (self.model, self.data, self.learning_rate, self.seed)
        return Cell(*place, "imp", reached, ROUND, number)


def cells(config: StudyConfig) -> Iterator[Cell]:
    """Yield every cell, after those it needs."""
    for model in config.models:
        for data in config.data:
            for seed in config.seeds:
                for learning_rate in config.learning_rates:
                    yield from _branch(config, Cell(model, data, learning_rate, seed))


def _branch(config: StudyConfig, dense: Cell) -> Iterator[Cell]:
    """Yield what shares one pre-trained network."""
    place = (dense.model, dense.data, dense.learning_rate, dense.seed)
    yield dense
    rounds = 0
    for generator in config.generators:
        for sparsity in config.sparsities:
            if parsed(generator)[0] == "imp":
                last = rounds_to(sparsity, config.imp_rate) - 1
                yield from (
                    dense.imp_round(n, config.imp_rate) for n in range(rounds + 1, last + 1)
                )
                rounds = max(rounds, last)
    for generator in config.all_generators():
        for sparsity in config.sparsities:
            masks = Cell(*place, generator, sparsity, MASKS)
            yield masks
            if generator in config.generators:
                for protocol in config.protocols:
                    if PROTOCOLS[protocol].masked:
                        yield masks.sibling(protocol)
    for protocol in config.protocols:
        if not PROTOCOLS[protocol].masked:
            # Of as many parameters as any mask of that sparsity leaves.
            for sparsity in config.sparsities:
                yield Cell(*place, "", sparsity, protocol)


def needs(config: StudyConfig, cell: Cell) -> list[Cell]:
    """Return the cells whose results it starts from."""
    if cell.protocol == DENSE or not cell.generator:
        return []
    if cell.protocol == ROUND:
        before = [cell.imp_round(cell.round - 1, config.imp_rate)]
        return before if cell.round == 1 else [cell.dense(), *before]
    if cell.protocol != MASKS:
        return [cell.dense(), cell.sibling(MASKS)]
    base, control = parsed(cell.generator)
    if control:
        return [cell.dense(), Cell(**{**cell.place(), "generator": base}, protocol=MASKS)]
    if base == "imp":
        return [cell.imp_round(rounds_to(cell.sparsity, config.imp_rate) - 1, config.imp_rate)]
    return [cell.dense()]


def epochs(config: StudyConfig, cell: Cell) -> int:
    """Return how many epochs a cell trains, for the progress display.

    The one protocol whose length depends on its mask counts as its longest.
    """
    if cell.protocol == MASKS:
        if cell.generator in TRAINED:
            return config.epochs
        return config.admm_epochs if cell.generator == "admm" else 0
    if cell.protocol in (DENSE, ROUND):
        return config.epochs
    return config.protocol_recipe(cell.protocol, cell.learning_rate, cell.seed, saving=2.0).epochs
