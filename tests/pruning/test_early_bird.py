"""The early bird fires if and only if the newest of five masks is near all four before."""

import pytest
import torch

import sparselth as sl
from sparselth.pruning import EarlyBird


def mask(*ones):
    found = torch.zeros(20, dtype=torch.bool)
    found[list(ones)] = True
    return {"a": found[:10].view(2, 5), "b": found[10:]}


STILL = mask(*range(8))


def test_it_wants_a_full_queue():
    bird = EarlyBird()
    assert [bird.update(STILL) for _ in range(6)] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(("away", "fires"), [(0, True), (2, True), (3, False)])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_every_distance_counts(away, fires, place):
    """Of 20 entries two are a tenth, whichever of the four before is that far away."""
    masks = [STILL] * 5
    masks[place] = mask(*range(8), *range(10, 10 + away))
    bird = EarlyBird()
    assert [bird.update(m) for m in masks][-1] == fires
    assert bird.distances()[place] == pytest.approx(away / 20)


def test_a_slow_drift_is_seen_over_the_queue():
    """Each step is within the distance, the whole queue is not."""
    bird = EarlyBird()
    drift = [mask(*range(i, i + 8)) for i in range(5)]
    assert not any(bird.update(m) for m in drift)
    assert bird.distances() == pytest.approx([8 / 20, 6 / 20, 4 / 20, 2 / 20])


def test_saved_and_loaded_it_goes_on():
    drift = [mask(*range(i, i + 8)) for i in (0, 0, 1, 1, 1, 1)]
    whole = EarlyBird()
    told = [whole.update(m) for m in drift]
    for cut in range(6):
        first, again = EarlyBird(), EarlyBird()
        for m in drift[:cut]:
            first.update(m)
        again.load_state_dict(first.state_dict())
        assert [again.update(m) for m in drift[cut:]] == told[cut:]
        assert again.distances() == whole.distances()


@pytest.mark.parametrize(
    "state",
    [
        *({}, None, {"method": "RigL", "masks": []}, {"method": "EarlyBird", "masks": 3}),
        {"method": "EarlyBird", "masks": [{"a": torch.ones(3)}]},
        {"method": "EarlyBird", "masks": [STILL, {"a": STILL["a"]}]},
    ],
)
def test_a_state_that_is_none(state):
    bird = EarlyBird()
    bird.update(STILL)
    for _ in range(2):
        with pytest.raises(sl.SparselthError):
            bird.load_state_dict(state)
    assert len(bird.state_dict()["masks"]) == 1


def test_old_masks_fall_out_and_those_given_may_change_after():
    bird = EarlyBird(queue=2, distance=0.0)
    masks = {name: tensor.clone() for name, tensor in STILL.items()}
    assert not bird.update(masks)
    masks["b"][:5] = True
    assert not bird.update(masks)
    assert bird.update(masks)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"queue": 1}, "queue must be"), ({"distance": 1.5}, "distance must be")],
)
def test_bad_input(options, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            EarlyBird(**options)
    bird = EarlyBird()
    bird.update(STILL)
    with pytest.raises(sl.SparselthError, match="other layers or shapes"):
        bird.update({"a": STILL["a"]})
    with pytest.raises(sl.SparselthError, match="mask"):
        bird.update({"a": torch.rand(3)})
