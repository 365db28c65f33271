"""The configuration: settings from text, what is refused, and what a study may grow by."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselth import SparselthError
from sparselth.pruning import ADMMUpdate
from sparselth.study import StudyConfig
from sparselth.study.plan.protocols import PROTOCOLS


def test_text_becomes_settings():
    config = StudyConfig().changed(
        {
            "learning_rates": "0.1, 0.2",
            "epochs": "7",
            "augment": "false",
            "seeds": 3,
            "width": 1,
            "models": "resnet20,vgg11",
            "data": "cifar10",
        }
    )
    assert config.learning_rates == (0.1, 0.2)
    assert (config.epochs, config.augment, config.seeds, config.width) == (7, False, (3,), 1.0)
    assert (config.models, config.data) == (("resnet20", "vgg11"), ("cifar10",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"model": "vgg11"}, "did you mean 'models'"),
        ({"zzz": 3}, "known: models, width, data,"),
        ({"epochs": 2.5}, "epochs got 2.5, expected a whole number"),
        ({"epochs": True}, "expected a whole number"),
        ({"epochs": "many"}, "expected a whole number"),
        ({"epochs": [3]}, "expected a whole number"),
        ({"augment": "perhaps"}, "expected true or false"),
        ({"learning_rates": "fast"}, "expected a number"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rates": []}, "at least one"),
        ({"sparsities": [0.9, 0.9]}, "each only once"),
        ({"sparsities": [0.9, 0.90000001]}, "each only once"),  # one folder
        ({"sparsities": [1.0]}, "below 1"),
        ({"sparsities": [0.0]}, "above 0"),
        ({"learning_rates": [-0.1]}, "above 0"),
        ({"models": ["lenet"]}, "resnet20, resnet32"),
        ({"models": ["no_such_module_here:make"]}, "cannot be imported"),
        ({"data": ["svhn"]}, "mnist5k"),
        ({"generators": ["lfpc"], "allocation": "global"}, "asks how many filters of each layer"),
        ({"generators": ["l1"], "allocation": "lamp"}, "compares single weights"),
        ({"generators": ["admm"], "allocation": "lamp"}, "'admm' does not go with"),
        ({"generators": ["snap"]}, "known: admm, apoz, bn-scale"),
        ({"generators": ["random-shuffled"]}, "random masks are a control already"),
        ({"generators": ["imp-upside"]}, "take -shuffled or -inverted"),
        ({"generators": ["magnitude-"]}, "take -shuffled or -inverted"),
        ({"protocols": ["rewound"]}, "rewind, scratch-b"),
        ({"allocation": "even"}, "known: erk, global, lamp, uniform"),
        ({"choice": "fastest"}, "fixed, graphed, measured"),
        ({"imp_reset": "theta_T"}, "none, theta_0, theta_k"),
        ({"imp_rate": 0.0}, "imp_rate is 0.0"),
        ({"imp_rate": 1.0}, "imp_rate is 1.0"),
        ({"admm_rho_schedule": "falling"}, "balanced, constant, growing, staged"),
        ({"admm_rho_growth": 0.5}, "factor .* number >= 1"),
        ({"admm_update_every": 100}, "never project"),
        ({"timing_rounds": 0}, "at least 1"),
        ({"thresholds": 0.5}, "thresholds got 0.5, expected 'setting: value' lines"),
        ({"thresholds": {"gaps": 1}}, "thresholds has no setting 'gaps'; did you mean 'gap'"),
        ({"thresholds": {"gap": "wide"}}, "gap got 'wide', expected a number"),
        ({"thresholds": {"gap": -1}}, "at least 0"),
        ({"thresholds": {"confidence": 95}}, "such as 0.95"),
        ({"thresholds": {"similar_on": {"cifar10": "few"}}}, "similar_on, cifar10, got 'few'"),
        ({"thresholds": {"similar_on": {"cifar-10": 2}}}, "did you mean 'cifar10'"),
        ({"thresholds": {"sparsity": 60}}, "a share of weights, below 1"),
        ({"weight_decay": "nan"}, "weight_decay got 'nan', expected a number"),
        ({"width": float("inf")}, "width got inf, expected a number"),
        ({"width": 0}, "width is 0.0"),
        ({"gamma": -1}, "gamma=-1.0"),
        ({"admm_rho": -1}, "admm_rho -1.0; both must be above 0"),
        ({"generators": ["amdm"]}, "did you mean 'admm'"),
        ({"recipes": ["finetune"]}, "recipes got"),
        ({"recipes": {"finetune": 3}}, "recipes got 3 for finetune"),
    ],
)
def test_what_cannot_be_is_refused_in_words(change, says):
    with pytest.raises(SparselthError, match=says):
        StudyConfig().changed(change)


def test_controls_and_allocations_that_can_be():
    config = StudyConfig(generators=("magnitude-inverted", "imp-shuffled"), allocation="erk")
    assert config.all_generators() == ("magnitude", "magnitude-inverted", "imp", "imp-shuffled")
    assert StudyConfig(generators=("imp-shuffled", "imp")).all_generators() == (
        "imp",
        "imp-shuffled",
    )


@pytest.mark.parametrize(
    "uses",
    [
        {"protocols": ["rewind"]},
        {"protocols": ["lr-rewind"]},
        {"generators": ["imp"], "imp_reset": "theta_k"},
        {"generators": ["imp-shuffled"], "imp_reset": "theta_k"},
    ],
)
@pytest.mark.parametrize("epoch", [0, 5])
def test_what_rewinds_goes_back_to_an_epoch_between(uses, epoch):
    config = StudyConfig().changed({**uses, "epochs": 5, "rewind_epoch": 1})
    assert config.keeps_theta_k
    assert config.changed({"rewind_epoch": 4}).rewind_epoch == 4
    with pytest.raises(SparselthError, match="choose 1 to 4"):
        config.changed({"rewind_epoch": epoch})


@pytest.mark.parametrize(
    "uses", [{}, {"generators": ["imp"]}, {"imp_reset": "theta_k"}, {"protocols": ["small-lr"]}]
)
def test_without_rewinding_its_epoch_does_not_matter(uses):
    config = StudyConfig().changed({**uses, "epochs": 5, "rewind_epoch": 10})
    assert not config.keeps_theta_k


configs = st.fixed_dictionaries(
    {
        "models": st.lists(st.sampled_from(["resnet20", "vgg11"]), min_size=1, unique=True),
        "generators": st.lists(
            st.sampled_from(["magnitude", "imp", "random", "admm-inverted"]),
            min_size=1,
            unique=True,
        ),
        "protocols": st.permutations(list(PROTOCOLS)),
        "learning_rates": st.lists(
            st.floats(1e-4, 1), min_size=1, max_size=2, unique_by="{:g}".format
        ),
        "milestones": st.lists(st.floats(0.1, 1), max_size=3),
        "thresholds": st.fixed_dictionaries(
            {"gap": st.floats(0, 3)},
            optional={
                "similar_on": st.dictionaries(
                    st.sampled_from(["mnist5k", "cifar100", "imagefolder"]), st.floats(0, 3)
                )
            },
        ),
        "recipes": st.fixed_dictionaries(
            {},
            optional={
                "finetune": st.fixed_dictionaries({"weight_decay": st.floats(0, 1)}),
                "small-lr": st.just({"milestones": [0.5], "learning_rate": 0.1}),
            },
        ),
    }
)


@settings(max_examples=30)
@given(configs)
def test_through_json_it_stays_the_same(values):
    config = StudyConfig().changed(values)
    again = StudyConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.differences(config.to_dict()) == []


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"thresholds": {"gap": 2}}, True),
        ({"data_root": "elsewhere"}, True),
        ({"epochs": 149}, False),
        ({"recipes": {"ticket": {"weight_decay": 0}}}, False),
        ({"seeds": [2, 0, 1, 3], "sparsities": [0.7, 0.8, 0.9, 0.95]}, True),
        ({"seeds": [0, 1]}, False),
        ({"seeds": [0, 1, 3]}, False),
    ],
)
def test_a_study_may_change_what_decides_no_number_and_grow(change, same):
    before = StudyConfig().changed({"seeds": [0, 1, 2], "sparsities": [0.9, 0.8]})
    found = before.changed(change).differences(before.to_dict())
    assert (found == []) is same
    assert same or next(iter(change)) in found[0]


def test_a_study_cannot_grow_by_what_rewinds_where_nothing_was_kept():
    before = StudyConfig().changed({"protocols": ["ticket"], "generators": ["admm"]})
    kept = {"protocols": ["ticket", "rewind"]}
    assert before.changed(kept).differences(before.to_dict()) == [
        "the pre-training there did not keep what is rewound to here"
    ]
    more = {"protocols": ["ticket", "rewind", "lr-rewind"]}
    assert before.changed(more).differences(before.changed(kept).to_dict()) == []


def test_a_staged_rho_grows_three_times_in_equal_steps():
    config = StudyConfig(
        admm_epochs=16, admm_update_every=2, admm_rho_schedule="staged", admm_rho_growth=10.0
    )
    update = ADMMUpdate(1.0, 1.0, 1.0, 0.0, 0.0)
    factors = [config.rho_schedule()(update, count) for count in range(1, 9)]
    assert factors == [1, 10, 1, 10, 1, 10, 1, 1]


def test_kernels_are_chosen_by_the_fixed_table_unless_asked():
    config = StudyConfig()
    assert config.recipe(0.1, seed=0).choice == config.admm_recipe(seed=0).choice == "fixed"
    measured = config.changed({"choice": "measured"})
    assert measured.recipe(0.1, 0).choice == measured.admm_recipe(0).choice == "measured"
