"""What keeping a weight on its mask must not do to memory, gradients and other models."""

import pytest
import torch
from support.mask_writers import Case, raw_state, seeded
from torch import nn

import sparselth as sl
from sparselth.ops import libraries

pytestmark = pytest.mark.usefixtures("one_thread")


def test_saving_between_forward_and_backward_disturbs_nothing():
    case = Case("conv3d")
    y = case.model(case.x)
    case.model.state_dict()
    _ = case.owner.weight
    y.sum().backward()
    assert case.weight.grad[case.mask].any()


def test_the_state_dict_shares_memory_with_the_model():
    case = Case("conv2d")
    assert case.model.state_dict()[case.name].data_ptr() == case.weight.data_ptr()


def test_a_functional_call_leaves_the_model_alone():
    case = Case("linear")
    state = raw_state(case.model)
    weight = torch.ones_like(case.weight)
    replaced = {case.name: weight, f"{case.name}_mask": case.other}
    got = torch.func.functional_call(case.model, replaced, case.x)
    want = nn.functional.linear(case.x, weight * case.other, case.owner.bias)
    torch.testing.assert_close(got, want)
    for name, tensor in raw_state(case.model).items():
        assert torch.equal(tensor, state[name])
    torch.testing.assert_close(case.model(case.x), case.dense()(case.x))


def test_a_functional_call_with_another_mask_leaves_the_model_alone():
    case = Case("linear")
    state = raw_state(case.model)
    got = torch.func.functional_call(case.model, {f"{case.name}_mask": case.other}, case.x)
    dense = case.weight * case.other
    torch.testing.assert_close(got, nn.functional.linear(case.x, dense, case.owner.bias))
    for name, tensor in raw_state(case.model).items():
        assert torch.equal(tensor, state[name])


def test_gradient_norms_do_not_count_pruned_weights():
    case = Case("linear")
    (nn.functional.linear(case.x, case.owner.weight) * 5).sum().backward()
    assert not case.weight.grad[~case.mask].any()
    assert case.weight.grad[case.mask].any()
    kept = case.weight.grad.norm()
    assert torch.nn.utils.clip_grad_norm_([case.weight], 1e9) == kept


def test_notes_on_gradients_are_not_kept():
    case = Case("conv2d")
    case.model(case.x).sum().backward()
    assert not case.weight.grad.__dict__


def test_a_frozen_weight_that_thaws_is_held_too():
    layer = nn.Linear(6, 4)
    layer.weight.requires_grad_(False)
    mask = torch.rand(4, 6) < 0.5
    sl.sparsify(layer, {"weight": mask})
    layer.weight.requires_grad_(True)
    layer(seeded(2, 6))
    layer.weight.sum().backward()
    assert torch.equal(layer.weight.grad, mask.float())


@pytest.mark.skipif(libraries.host() is None, reason="_host is not there, and builds plans")
def test_a_mask_written_with_what_it_held_derives_nothing_anew():
    case = Case("conv2d")
    with sl.use_backend("cpu"):
        case.mask.copy_(case.mask.clone())
        case.model(case.x)  # from here on there is a copy to compare with
        plan = case.owner.service.plan
        for _ in range(3):
            case.mask.copy_(case.mask.clone())
            case.model(case.x)
            assert case.owner.service.plan is plan
        case.mask.copy_(case.other)
        torch.testing.assert_close(case.model(case.x), case.dense()(case.x))
        assert case.owner.service.plan is not plan


def test_models_are_freed():
    import gc
    import weakref

    case = Case("conv2d")
    reference, weight = weakref.ref(case.model), weakref.ref(case.owner)
    del case
    gc.collect()
    assert reference() is None
    assert weight() is None
