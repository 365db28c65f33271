"""One whole training step on a GPU, sparse against dense: bfloat16 autocast, channels_last.

Both steps are captured in a CUDA graph: an eager step of a small network is bound by launches, and
no kernel shows there. Dense is a plain model whose weights were multiplied with the masks
beforehand, cuDNN with `benchmark=True`, torch's fused SGD. The modules of the sparse one measure on
their first batch, before the capture. The head of the network and its first layer stay dense, as
networks of blocks are pruned.
"""

from __future__ import annotations

import pytest
import torch
from gpu_timing import cudnn, dense_milliseconds, milliseconds
from training_gpu import captured, dense, sparse

from sparselth.bench.ratios import Ratio

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

# Network, pattern of its masks, sparsity: what says most comes first. ResNet-20 has 16, 32 and 64
# channels, VGG-11 up to 512.
CASES = (
    *(("vgg11", "32x32", 0.9), ("vgg11", "element", 0.98), ("resnet20", "16x16", 0.9)),
    *(("resnet20", "element", 0.98), ("vgg11", "32x32", 0.98), ("vgg11", "filter", 0.9)),
    *(("resnet20", "filter", 0.9), ("vgg11", "element", 0.9), ("resnet20", "16x16", 0.98)),
)


@pytest.mark.parametrize(("name", "pattern", "sparsity"), CASES)
def bench_training_step_cuda(benchmark, record, name, pattern, sparsity):
    with cudnn():
        values = {
            "sparse": milliseconds(captured(*sparse(name, pattern, sparsity))),
            "dense": dense_milliseconds(captured(*dense(name, pattern, sparsity))),
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
