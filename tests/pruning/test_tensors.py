"""Sparsities by name: which layers they ask for, and which key goes for which."""

import pytest
import torch
from torch import nn

import sparselth as sl


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 5)
    )


def shares(sparsity, **options):
    masks = sl.find_masks(net(), sparsity=sparsity, **options)
    return {name: round(sl.sparsity({name: mask}), 2) for name, mask in masks.items()}


@pytest.mark.parametrize(
    ("sparsity", "found"),
    [
        ({"1.weight": 0.5}, {"1.weight": 0.5}),
        ({"*": 0.75}, {"1.weight": 0.75, "2.weight": 0.75}),
        ({"*": 0.75, "2.weight": 0.5}, {"1.weight": 0.75, "2.weight": 0.5}),
        ({"2.*": 0.5, "*": 0.75}, {"1.weight": 0.75, "2.weight": 0.5}),
        ({"*": 0.75, "2.*": 0.5}, {"1.weight": 0.75, "2.weight": 0.5}),
        ({"[12].weight": 0.5, "2.*": 0.75}, {"1.weight": 0.5, "2.weight": 0.5}),
        # A name asks for what is left out by default, a pattern does not.
        ({"0.weight": 0.5, "4.weight": 0.5}, {"0.weight": 0.5, "4.weight": 0.5}),
        ({"*.weight": 0.5, "0.weight": 0.0}, {"0.weight": 0.0, "1.weight": 0.5, "2.weight": 0.5}),
    ],
)
def test_a_layer_has_the_share_of_the_key_that_says_most(sparsity, found):
    assert shares(sparsity) == found
    assert shares(sparsity, allocation="given") == found


def test_what_is_excluded_stays_so():
    assert shares({"*": 0.5}, exclude=["1.weight", "2.weight"]) == {
        "0.weight": 0.5,
        "4.weight": 0.5,
    }


def test_an_embedding_is_asked_for_by_its_name():
    model = nn.ModuleDict({"words": nn.Embedding(20, 8), "out": nn.Linear(8, 4)})
    masks = sl.find_masks(model, sparsity={"words.weight": 0.5})
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"words.weight": 80}


def test_a_shared_weight_goes_by_any_of_its_names():
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 2)})
    model["b"].weight = model["a"].weight
    assert set(sl.find_masks(model, sparsity={"b.weight": 0.5})) == {"a.weight"}
    model["longer"] = nn.Linear(8, 8)
    model["longer"].weight = model["a"].weight
    for other in ("b.weight", "longer.weight"):
        with pytest.raises(ValueError, match="two different sparsities, by"):
            sl.find_masks(model, sparsity={"a.weight": 0.5, other: 0.25})


def test_admm_tickets_and_fine_tuning_take_them_too():
    model = net()
    admm = sl.ADMM(model, sparsity={"2.*": 0.5})
    assert set(admm.masks()) == {"2.weight"}
    digits = sl.data.load("mnist5k").limited(train=32, test=32)
    recipe = sl.Recipe(epochs=1, learning_rate=0.1, batch_size=32)
    model = sl.models.build("conv4", num_classes=10, in_channels=1, width=0.25)
    names = list(sl.find_masks(model))
    wanted = {names[0]: 0.5, "*": 0.75}
    ticket = sl.find_ticket(model, digits, recipe, wanted, rounds=2)
    tuned = sl.prune_and_finetune(sl.densify(model), digits, recipe, wanted)
    for masks in (ticket.masks, tuned.masks):
        found = {name: sl.sparsity({name: mask}) for name, mask in masks.items()}
        expected = {name: wanted.get(name, 0.75) for name in names}
        assert found == pytest.approx(expected, abs=0.01)


def test_a_layer_that_cannot_have_a_mask_is_no_matter_where_it_is_not_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
    torch.nn.utils.parametrizations.weight_norm(model[2])
    assert set(sl.find_masks(model, sparsity={"1.weight": 0.5})) == {"1.weight"}
    with pytest.raises(ValueError, match=r"2\.weight: "):
        sl.find_masks(model, sparsity={"*": 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": {}}, r"sparsity names no layer; .* patterns of \['1.weight', '2.weight'\]"),
        ({"sparsity": {"3.weight": 0.5}}, r"sparsity names \['3.weight'\], but the model's"),
        (
            {"sparsity": {"*": 0.9, "0*": 0.5}},
            r"names '0\*', which fits only what is left out, 0.w",
        ),
        ({"sparsity": {"1*": 0.5, "?.": 0.5}}, r"sparsity names \['\?\.'\]"),
        ({"sparsity": {"*1.we*": 0.9, "1.w*t": 0.5}}, r"sparsities, by '\*1.we\*' and by '1.w\*t'"),
        ({"sparsity": {"1.weight": 0.5}, "exclude": ["1.*"]}, "named by sparsity and by exclude"),
        ({"sparsity": {"1.weight": "x"}}, "^1.weight: sparsity is the share .*got 'x'"),
        ({"sparsity": {"1.weight": 1.0}}, "^1.weight: sparsity is the share .*got 1.0"),
        ({"sparsity": {"1.weight": 0.5, "*": "x"}}, r"^\*: sparsity is the share .*got 'x'"),
        ({"sparsity": {"1.*": torch.ones(2), "?.w*t": 0.5}}, r"^1\.\*: sparsity is the share"),
        ({"sparsity": {"1.bias": 0.5}}, r"^sparsity names \['1.bias'\], which cannot have masks"),
        ({"sparsity": {"1": 0.5}}, r"sparsity names \['1'\].*; did you mean '1.\*'\?"),
        ({"exclude": ["2"]}, r"exclude names \['2'\].*; did you mean '2.\*'\?"),
        ({"sparsity": {5: 0.5}}, "mapping of parameter names, .* got 5 for a name"),
    ],
)
def test_bad_input_is_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        sl.find_masks(net(), **options)
