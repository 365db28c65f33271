"""The protocols: those of another schedule keep to what they say, and the others have the same."""

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparselth import SparselthError
from sparselth.study.plan.protocols import (
    LABELS,
    PROTOCOLS,
    REWINDING,
    STARTS,
    Terms,
    check_same_terms,
    compared,
)
from sparselth.training import Recipe

DIFFERING = {"lr-rewind", "small-lr", "scratch-b"}

recipes = st.builds(
    Recipe,
    epochs=st.integers(2, 200),
    learning_rate=st.floats(1e-3, 1),
    milestones=st.lists(st.floats(0.01, 1), max_size=4).map(tuple),
    gamma=st.floats(0.1, 0.9),
    weight_decay=st.floats(0, 1),
    seed=st.integers(0, 9),
)


def schedule(recipe):
    return [recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)]


def beside_the_schedule(recipe):
    return dataclasses.replace(recipe, epochs=1, learning_rate=1.0, milestones=())


def own(protocol, recipe, rewind_epoch=1, saving=1.0):
    return PROTOCOLS[protocol].recipe(recipe, Terms(rewind_epoch, saving))


@given(recipes, st.data())
def test_rate_rewinding_trains_the_tail_of_the_shared_schedule(recipe, data):
    k = data.draw(st.integers(1, recipe.epochs - 1))
    found = own("lr-rewind", recipe, rewind_epoch=k)
    assert schedule(found) == pytest.approx(schedule(recipe)[k:], rel=1e-9)
    assert beside_the_schedule(found) == beside_the_schedule(recipe)


@given(recipes)
def test_the_small_rate_is_the_last_one_throughout(recipe):
    found = own("small-lr", recipe)
    assert schedule(found) == [schedule(recipe)[-1]] * recipe.epochs
    assert beside_the_schedule(found) == beside_the_schedule(recipe)


@given(recipes, st.floats(1, 50))
def test_scratch_b_trains_for_the_computation_saved_but_twice_at_most(recipe, saving):
    found = own("scratch-b", recipe, saving=saving)
    assert found == dataclasses.replace(recipe, epochs=found.epochs)
    assert found.epochs == round(recipe.epochs * min(2, saving))
    assert recipe.epochs <= found.epochs <= 2 * recipe.epochs


@pytest.mark.parametrize(("saving", "epochs"), [(1.0, 150), (1.25, 188), (2.0, 300), (9.0, 300)])
def test_scratch_b_of_150_epochs(saving, epochs):
    assert own("scratch-b", Recipe(epochs=150), saving=saving).epochs == epochs


def test_those_on_other_terms_are_not_compared():
    assert set(PROTOCOLS) - set(compared(list(PROTOCOLS))) == DIFFERING
    assert compared(("small-lr", "rewind", "ticket")) == ["rewind", "ticket"]
    assert compared(("lr-rewind",)) == []


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_says_how_it_differs_exactly_where_it_does(name):
    protocol = PROTOCOLS[name]
    assert (protocol.recipe is not None) == bool(protocol.differs) == (name in DIFFERING)


def test_every_protocol_has_a_label_of_its_own_and_a_start():
    assert len(set(LABELS.values())) == len(PROTOCOLS) + 1
    assert {protocol.start for protocol in PROTOCOLS.values()} == set(STARTS)
    assert set(REWINDING) <= set(PROTOCOLS)


@given(recipes, recipes)
def test_another_schedule_is_refused_of_those_compared_alone(first, second):
    assume(schedule(first) != schedule(second))
    for name in DIFFERING:
        check_same_terms(name, first, second)
    for name in set(PROTOCOLS) - DIFFERING:
        with pytest.raises(SparselthError, match=f"{name} would train for {first.epochs} epochs"):
            check_same_terms(name, first, second)


def test_the_refusal_has_both_schedules():
    four = Recipe(epochs=4, learning_rate=0.1, milestones=(0.5,))
    three = Recipe(epochs=3, learning_rate=0.2, milestones=())
    with pytest.raises(SparselthError) as refused:
        check_same_terms("shuffle", four, three)
    assert str(refused.value).startswith(
        "shuffle would train for 4 epochs at learning rates 0.1, 0.01, while the others train for "
        "3 epochs at learning rates 0.2;"
    )


@given(recipes)
def test_what_lies_beside_the_schedule_is_free(recipe):
    other = dataclasses.replace(recipe, weight_decay=0.5, momentum=0.1, seed=7, optimizer="adamw")
    check_same_terms("ticket", other, recipe)
    # The same rates by other milestones.
    late = dataclasses.replace(recipe, milestones=(*recipe.milestones, 1.0))
    check_same_terms("ticket", late, recipe)
