"""Which containers change class, how they are copied and saved, and torchvision's among them."""

import copy
import inspect
import io
import subprocess
import sys

import pytest
import torch
from support.contained_nets import counts, known, resnet, sparse
from support.traveling_nets import assert_same_step, conv, images, masks_for
from torch import nn

import sparselth as sl
from sparselth.models.resnet import BasicBlock
from sparselth.nn import containers
from sparselth.nn.containers import LaneContainer

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


def test_copies_files_and_plain_models():
    x = images(3)
    before = resnet()
    keys = list(before.state_dict())
    model = known(sparse(before), x)
    assert isinstance(model, LaneContainer)
    assert isinstance(model[3], BasicBlock)
    want = model.eval()(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert type(twin[3]) is type(model[3])
        assert torch.equal(twin(x), want)
    sl.densify(model)
    assert type(model) is nn.Sequential
    assert type(model[3]) is BasicBlock
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), want)


def test_another_process_finds_the_classes_of_a_saved_model(tmp_path):
    path, x = tmp_path / "model.pt", images(2)
    model = sparse(resnet()).eval()
    torch.save((model, x, model(x).detach()), path)
    program = (
        "import sys, torch\n"
        "model, x, want = torch.load(sys.argv[1], weights_only=False)\n"
        "assert type(model[3]).__name__ == 'BasicBlock', type(model[3])\n"
        "torch.testing.assert_close(model(x), want)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=120)


def test_what_records_a_model_sees_the_containers_signature():
    model = sparse(resnet())
    for module in (model, model[3]):
        assert inspect.signature(module.forward) == inspect.signature(
            module.plain.forward.__get__(module)
        )
    recorded, x = torch.fx.symbolic_trace(model.eval()), images(3)
    assert next(node.name for node in recorded.graph.nodes) == "input_1"
    torch.testing.assert_close(recorded(x), model(x))


def test_arguments_go_by_their_names():
    model = known(sparse(resnet()), images(3)).eval()
    x = images(3)
    assert torch.equal(model(input=x), model(x))
    inner = model[:3](x)
    assert torch.equal(model[3](x=inner), model[3](inner))
    with pytest.raises(TypeError):
        model(x, x)


def test_containers_without_masked_convolutions_stay_what_they_are():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(conv(3, 8)))
    sl.sparsify(model, masks_for(model))
    assert [isinstance(m, LaneContainer) for m in model] == [False, True]
    assert type(model) is nn.Sequential


def test_names_of_no_container_are_not_there():
    with pytest.raises(AttributeError):
        containers.Lane_torch_nn_Linear  # noqa: B018


def small_vgg(models):
    model = models.vgg11_bn()
    model.classifier = nn.Linear(512 * 7 * 7, 5)
    return model


TORCHVISION = {  # and the masked convolutions that a norm follows: all but the dense first one
    "resnet18": (lambda models: models.resnet18(num_classes=5), 19),
    "bottlenecks": (
        lambda models: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5),
        16,
    ),
    "vgg11_bn": (small_vgg, 7),
    "mobilenet_v2": (lambda models: models.mobilenet_v2(num_classes=5, width_mult=0.25), 51),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_models(name, monkeypatch):
    build, convolutions = TORCHVISION[name]
    model = build(pytest.importorskip("torchvision.models")).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9))
    x = images(4, 64)  # the last norms have some values to take statistics of
    known(model, x)
    calls = counts(monkeypatch)
    assert_same_step(model, x)
    assert len(calls) == convolutions
