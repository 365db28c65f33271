"""The cells: what each needs comes before it, nothing twice, rounds of imp shared."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparselth.study import Cell, StudyConfig
from sparselth.study.plan.cells import MASKS, ROUND, cells, epochs, needs
from sparselth.study.plan.names import after_rounds, parsed, rounds_to
from sparselth.study.plan.protocols import PROTOCOLS

GENERATORS = (
    *("magnitude", "imp", "admm", "random"),
    *("magnitude-shuffled", "imp-shuffled", "imp-inverted", "admm-inverted"),
)
GRID = [0.15, 0.278, 0.386, 0.478, 0.556, 0.623, 0.679, 0.728, 0.768, 0.803, 0.833, 0.858]


def some(values, most=3):
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(tuple)


configs = st.builds(
    StudyConfig,
    models=some(["resnet20", "vgg11"], 2),
    data=some(["mnist5k", "cifar10"], 2),
    learning_rates=some([0.01, 0.1], 2),
    generators=some(GENERATORS),
    sparsities=some([0.1, 0.5, 0.623, 0.9]),
    protocols=some(list(PROTOCOLS), 4),
    seeds=some([0, 1], 2),
    imp_rate=st.sampled_from([0.15, 0.2, 0.5]),
)


@settings(max_examples=60)
@given(configs)
@example(StudyConfig(generators=("imp-shuffled", "imp"), protocols=("small-dense",)))
def test_each_cell_comes_after_all_it_needs(config):
    before = set()
    for cell in cells(config):
        assert set(needs(config, cell)) <= before
        before.add(cell)


@settings(max_examples=60)
@given(configs)
def test_every_cell_has_its_own_folder_and_label(config):
    found = list(cells(config))
    for names in (found, [c.folder for c in found], [c.label for c in found]):
        assert len(set(names)) == len(names)
    assert not any({"", ".", ".."} & set(cell.folder.split("/")) for cell in found)


@settings(max_examples=60)
@given(configs)
def test_the_whole_grid_is_there_and_nothing_else_is_compared(config):
    masked = [p for p in config.protocols if PROTOCOLS[p].masked]
    bare = [p for p in config.protocols if not PROTOCOLS[p].masked]
    branches = list(
        itertools.product(config.models, config.data, config.learning_rates, config.seeds)
    )
    wanted = {Cell(*branch) for branch in branches}
    for branch, sparsity in itertools.product(branches, config.sparsities):
        wanted |= {Cell(*branch, "", sparsity, protocol) for protocol in bare}
        for generator, protocol in itertools.product(config.generators, masked):
            wanted.add(Cell(*branch, generator, sparsity, protocol))
    assert {cell for cell in cells(config) if cell.trained} == wanted


@settings(max_examples=60)
@given(configs)
def test_what_serves_only_others_is_needed_by_one(config):
    found = list(cells(config))
    needed = {need for cell in found for need in needs(config, cell)}
    assert all(cell in needed for cell in found if cell.protocol == ROUND)
    controls_of = {parsed(g)[0] for g in config.generators if parsed(g)[1]}
    for cell in found:
        if cell.protocol == MASKS and cell.generator not in config.generators:
            assert cell.generator in controls_of
            assert cell in needed


@pytest.mark.parametrize(
    "generators", [("imp",), ("imp", "imp-shuffled"), ("imp-inverted", "imp-shuffled")]
)
@pytest.mark.parametrize("sparsities", [(0.386, 0.623), (0.623, 0.386), (0.623,)])
def test_rounds_are_shared_by_sparsities_and_controls(generators, sparsities):
    config = StudyConfig(generators=generators, sparsities=sparsities, learning_rates=(0.1,))
    rounds = [cell for cell in cells(config) if cell.protocol == ROUND]
    assert [cell.round for cell in rounds] == [1, 2, 3, 4, 5]  # the sixth cut is the mask
    assert [cell.sparsity for cell in rounds] == pytest.approx(GRID[:5], abs=5e-4)
    masks = Cell("resnet20", "mnist5k", 0.1, 0, "imp", 0.623, MASKS)
    assert needs(config, masks) == [rounds[4]]
    assert needs(config, rounds[4]) == [masks.dense(), rounds[3]]
    assert needs(config, rounds[0]) == [masks.dense()]
    if 0.386 in sparsities:
        assert needs(config, replace(masks, sparsity=0.386)) == [rounds[1]]


def test_one_round_of_imp_prunes_the_dense_network():
    config = StudyConfig(generators=("imp",), sparsities=(0.15,))
    assert [cell for cell in cells(config) if cell.protocol == ROUND] == []
    masks = Cell("resnet20", "mnist5k", 0.1, 0, "imp", 0.15, MASKS)
    assert needs(config, masks) == [masks.dense()]


def test_a_control_waits_for_the_masks_it_changes_and_a_protocol_for_its_own():
    config = StudyConfig(generators=("admm-shuffled",))
    control = Cell("resnet20", "mnist5k", 0.1, 0, "admm-shuffled", 0.9, MASKS)
    base = Cell("resnet20", "mnist5k", 0.1, 0, "admm", 0.9, MASKS)
    assert needs(config, control) == [control.dense(), base]
    assert needs(config, control.sibling("ticket")) == [control.dense(), control]
    small = Cell("resnet20", "mnist5k", 0.1, 0, "", 0.9, "small-dense")
    assert needs(config, small) == needs(config, small.dense()) == []


@pytest.mark.parametrize(("rounds", "sparsity"), list(enumerate(GRID, start=1)))
def test_sparsities_of_the_paper_are_whole_rounds(rounds, sparsity):
    assert rounds_to(sparsity, 0.15) == rounds
    assert after_rounds(rounds, 0.15) == pytest.approx(sparsity, abs=5.1e-4)


@pytest.mark.parametrize(
    ("sparsity", "rounds"),
    [(0.01, 1), (0.2, 2), (0.3, 3), (0.5, 5), (0.62, 6), (0.7, 8), (0.9, 15)],
)
def test_between_two_rounds_the_last_prunes_less(sparsity, rounds):
    assert rounds_to(sparsity, 0.15) == rounds


@given(st.floats(0.001, 0.99), st.floats(0.02, 0.9))
def test_as_many_rounds_as_it_takes_and_no_more(sparsity, rate):
    rounds = rounds_to(sparsity, rate)
    near = 0.01 * (1 - sparsity) + 1e-9
    assert rounds >= 1
    assert after_rounds(rounds, rate) >= sparsity - near
    assert rounds == 1 or after_rounds(rounds - 1, rate) < sparsity


def test_epochs_for_the_progress_display():
    config = StudyConfig(epochs=20, admm_epochs=7, admm_update_every=2)
    place = ("resnet20", "mnist5k", 0.1, 0)
    assert epochs(config, Cell(*place)) == 20
    assert epochs(config, Cell(*place).imp_round(2, 0.15)) == 20
    assert epochs(config, Cell(*place, "admm", 0.9, MASKS)) == 7
    assert epochs(config, Cell(*place, "magnitude", 0.9, MASKS)) == 0
    assert epochs(config, Cell(*place, "magnitude", 0.9, "scratch-b")) == 40
    assert epochs(config, Cell(*place, "magnitude", 0.9, "lr-rewind")) == 10


def test_a_factory_has_a_folder_without_a_colon():
    cell = Cell("my.nets:make", "cifar10", 0.1, 0, "imp", 0.9, "ticket")
    assert cell.folder.startswith("my.nets.make/cifar10/")
    assert cell.label == "my.nets:make on cifar10, lr 0.1, seed 0, imp 90 %, ticket"
    assert cell.dense().label == "my.nets:make on cifar10, lr 0.1, seed 0, dense pre-training"


def test_at_high_sparsities_nearness_is_a_share_of_what_is_left():
    assert rounds_to(0.99, 0.15) == 29  # the 28th leaves 1.06 %
    assert after_rounds(29, 0.15) > 0.99
