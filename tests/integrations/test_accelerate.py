"""accelerate: prepared, placed, offloaded and loaded sparse models."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
from accelerate.hooks import remove_hook_from_submodules  # noqa: E402
from accelerate.utils import set_module_tensor_to_device  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (8,), generator=torch.Generator().manual_seed(2))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4)),
    )


def sparse():
    model = network().eval()
    masks = sl.find_masks(model, sparsity=0.8)
    return sl.sparsify(model, masks), masks


def test_a_prepared_model_trains_as_it_would_alone(tmp_path):
    model, masks = sparse()
    twin = copy.deepcopy(model.train())
    accelerator = accelerate.Accelerator(cpu=True)
    alone = sl.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    prepared, optimizer = accelerator.prepare(
        model, sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    )
    for _ in range(3):
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(prepared(X), Y))
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        alone.zero_grad()
        nn.functional.cross_entropy(twin(X), Y).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        alone.step()
    torch.testing.assert_close(list(prepared.parameters()), list(twin.parameters()))
    accelerator.save_state(tmp_path)
    for parameter in prepared.parameters():
        nn.init.ones_(parameter)
    accelerator.load_state(tmp_path)
    torch.testing.assert_close(list(prepared.parameters()), list(twin.parameters()))
    assert sl.sparsity(accelerator.unwrap_model(prepared)) == sl.sparsity(masks)


@pytest.mark.parametrize("name", ["3.weight", "6.weight"])
def test_a_weight_that_is_set_is_masked_wherever_it_was(name):
    model, masks = sparse()
    value = torch.rand_like(model.get_parameter(name)) + 1
    set_module_tensor_to_device(model, name, "cpu", value=value)
    want = sl.densify(copy.deepcopy(model))
    assert torch.equal(want.get_parameter(name), value * masks[name])
    torch.testing.assert_close(model(X), want(X))
    set_module_tensor_to_device(model, name, "meta")
    assert model.get_submodule(name[0]).weight.is_meta
    set_module_tensor_to_device(model, name, "cpu", value=value)
    torch.testing.assert_close(model(X), want(X))


def test_a_mask_that_is_set_counts():
    model, masks = sparse()
    other = torch.rand(masks["3.weight"].shape) < 0.3
    set_module_tensor_to_device(model, "3.weight_mask", "cpu", value=other)
    assert torch.equal(sl.masks_of(model)["3.weight"], other)
    torch.testing.assert_close(model(X), sl.densify(copy.deepcopy(model))(X))


@pytest.mark.parametrize("buffers", [False, True])
def test_offloaded_weights_come_masked_and_go_again(buffers):
    model, masks = sparse()
    want = model(X)
    accelerate.cpu_offload(model, execution_device="cpu", offload_buffers=buffers)
    for _ in range(2):
        assert all(parameter.is_meta for parameter in model.parameters())
        torch.testing.assert_close(model(X), want)
    assert str(model)
    if buffers:
        with pytest.raises(sl.SparselthError, match=r"masks of 3\.weight, 6\.weight lie on"):
            sl.sparsity(model)
        with pytest.raises(sl.SparselthError, match="mask lies on the meta device"):
            _ = model[3].sparsity
    else:
        assert sl.sparsity(model) == sl.sparsity(masks)
    remove_hook_from_submodules(model)
    torch.testing.assert_close(model(X), want)
    assert sl.sparsity(model) == sl.sparsity(masks)
    torch.testing.assert_close(sl.densify(model)(X), want)


def test_an_empty_sparse_model_is_loaded(tmp_path):
    model, masks = sparse()
    torch.save(model.state_dict(), tmp_path / "model.bin")
    with accelerate.init_empty_weights():
        empty = network().eval()
    sl.sparsify(empty, {name: mask.to("meta") for name, mask in masks.items()})
    loaded = accelerate.load_checkpoint_and_dispatch(
        empty, str(tmp_path / "model.bin"), device_map={"": "cpu"}
    )
    torch.testing.assert_close(loaded(X), model(X))
    assert sl.sparsity(loaded) == sl.sparsity(masks)


@pytest.mark.parametrize("removed", [True, False])
def test_methods_kept_by_hooks_follow_a_change_of_class(removed):
    model = network().eval()
    accelerate.hooks.attach_align_device_hook(model, execution_device="cpu")
    want = model(X)
    if removed:
        remove_hook_from_submodules(model)
    assert "forward" in model[3].__dict__
    masks = sl.find_masks(model, sparsity=0.0)
    sl.sparsify(model, masks)
    kept = model[3].__dict__["forward" if removed else "_old_forward"]
    assert kept.__func__ is type(model[3]).forward
    torch.testing.assert_close(model(X), want)
    torch.testing.assert_close(sl.densify(model)(X), want)
