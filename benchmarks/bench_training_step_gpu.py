"""One whole training step on a GPU, sparse against dense: bfloat16 autocast, channels_last.

Both steps are captured in a CUDA graph: an eager step of a small network is bound by launches, and
no kernel shows there. Dense is a plain model whose weights were multiplied with the masks
beforehand, cuDNN with `benchmark=True`, torch's fused SGD. The modules of the sparse one measure on
their first batch, before the capture. The head of the network and its first layer stay dense, as
networks of blocks are pruned.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from bench_masked_conv2d_gpu import milliseconds
from ratios import Ratio
from torch import nn

import sparselth as sl
from sparselth.models import build
from sparselth.ops.patterns import find_pattern

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

BATCH = 256
SGD_OPTIONS = {"lr": 1e-3, "momentum": 0.9}
# Network -> the patterns its masks are made of. ResNet-20 has 16, 32 and 64 channels.
PATTERNS = {"resnet20": ("16x16", "filter", "element"), "vgg11": ("32x32", "filter", "element")}
SPARSITIES = (0.9, 0.98)


def model_and_masks(
    name: str, pattern: str, sparsity: float
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Build a network on the GPU and masks for its convolutions but the first."""
    model = build(name, num_classes=10, in_channels=3)
    model = model.to("cuda", memory_format=torch.channels_last)
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][1:]
    weights = {f"{n}.weight": model.get_parameter(f"{n}.weight") for n in convolutions}
    groups = [find_pattern(pattern).groups(w.shape) for w in weights.values()]
    kept = [max(1, round((1 - sparsity) * n)) for n in groups]
    masks = sl.ops.topk_mask([w.detach() for w in weights.values()], kept, pattern=pattern)
    return model, dict(zip(weights, masks, strict=True))


def captured(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Return a training step, as a CUDA graph."""
    images = torch.randn(BATCH, 3, 32, 32, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,), device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        # A cache of casts would outlive the capture it was filled in.
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def dense(name: str, pattern: str, sparsity: float) -> Callable[[], object]:
    """Train the plain model by plain torch; the masks cost nothing."""
    model, masks = model_and_masks(name, pattern, sparsity)
    with torch.no_grad():
        for key, mask in masks.items():
            model.get_parameter(key).mul_(mask)
    optimizer = torch.optim.SGD(model.parameters(), **SGD_OPTIONS, fused=True)
    return captured(model, optimizer)


def sparse(name: str, pattern: str, sparsity: float) -> Callable[[], object]:
    """Train with `sparsify`, every layer free to choose dense."""
    model, masks = model_and_masks(name, pattern, sparsity)
    sl.sparsify(model, masks)
    return captured(model, sl.optim.SGD(model.parameters(), **SGD_OPTIONS))


@pytest.mark.parametrize(
    ("name", "pattern"), [pair for n, ps in PATTERNS.items() for pair in product([n], ps)]
)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def bench_training_step_cuda(benchmark, record, name, pattern, sparsity):
    with torch.backends.cudnn.flags(benchmark=True, allow_tf32=True):
        values = {
            contestant.__name__: milliseconds(contestant(name, pattern, sparsity))
            for contestant in (sparse, dense)
        }
    record(
        values,
        Ratio("dense bf16, channels_last, as a CUDA graph", ("dense",)),
        op="training step",
        device="cuda",
        problem=f"{name}, {pattern}",
        sparsity=sparsity,
    )
    benchmark.pedantic(torch.cuda.synchronize, rounds=1)
