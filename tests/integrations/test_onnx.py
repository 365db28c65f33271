"""Sparse models exported as they are: dense networks with zeros, of torch's operators only."""

import io

import numpy as np
import pytest
import torch
from torch import nn

import sparselth as sl

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxscript = pytest.importorskip("onnxscript", reason="onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        return self.out(self.encoder(x))


def images():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3)),
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
    )


# Model, input, and whether its weights are small enough for the exporter to fold their masks.
MODELS = {
    "images": (images, (2, 3, 12, 12), True),
    "encoder": (Encoder, (2, 5, 16), True),
    "sequences": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3)),
        (2, 3, 9),
        True,
    ),
    "wide": (lambda: nn.Sequential(nn.Linear(768, 768), nn.Linear(768, 8)), (2, 768), False),
}


def sparse(name):
    make, shape, folds = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    masks = sl.find_masks(model, sparsity=0.8, exclude=())
    sl.sparsify(model, masks)
    model.get_parameter(next(iter(masks))).data.add_(0.5)  # what is off the masks is no part of it
    return model, masks, torch.randn(shape), folds


def shares_of_zeros(program):
    """Return the shares of zeros of all weights, sorted, and the types and domains of nodes."""
    data = io.BytesIO()
    program.save(data)
    graph = onnx.load_from_string(data.getvalue()).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    weights = [a for a in arrays if a.dtype == np.float32 and a.size > 48 and a.ndim > 1]
    nodes = {node.op_type for node in graph.node}
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    return sorted((a == 0).mean() for a in weights), nodes, data.getvalue(), arrays


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_graph_is_dense_with_zeros_in_its_initializers(name):
    model, masks, x, folds = sparse(name)
    with torch.no_grad():
        want = model(x).numpy()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    _, nodes, _, _ = shares_of_zeros(program)
    if not folds:  # torch's exporter folds constants up to a size
        assert "Where" in nodes
        onnxscript.optimizer.optimize(
            program.model, input_size_limit=2**40, output_size_limit=2**40
        )
    zeros, nodes, data, arrays = shares_of_zeros(program)
    assert "Where" not in nodes
    assert not [a for a in arrays if a.dtype == bool]
    sparsities = sorted(1 - mask.float().mean().item() for mask in masks.values())
    assert zeros == pytest.approx(sparsities, abs=1e-5)
    session = onnxruntime.InferenceSession(data)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_exported_program_is_saved_and_computes_alike(name, strict, tmp_path):
    model, masks, x, _ = sparse(name)
    with torch.no_grad():
        want = model(x)
    program = torch.export.export(model, (x,), strict=strict)
    assert not [n for n in program.graph.nodes if "sparselth" in str(n.target)]
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    torch.testing.assert_close(loaded(x), want)
    # It may be trained further: the masks are in it.
    loaded(x).square().sum().backward()
    gradients = {path: p.grad for path, p in loaded.named_parameters()}
    for path, mask in masks.items():
        assert not gradients[path][~mask].any()
        assert gradients[path][mask].any()


@pytest.mark.filterwarnings("ignore")
def test_batches_of_any_size():
    model, _, x, _ = sparse("images")
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(
        model, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},)
    )
    _, _, data, _ = shares_of_zeros(program)
    session = onnxruntime.InferenceSession(data)
    more = torch.randn(7, 3, 12, 12)
    (got,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    np.testing.assert_allclose(got, model(more).detach().numpy(), rtol=1e-4, atol=1e-5)
