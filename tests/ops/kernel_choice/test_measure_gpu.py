"""Measuring on a GPU without memory for it: a warning, and dense."""

import pytest
import torch

from sparselth.ops.kernel_choice import decide, measure_gpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES


def test_a_gpu_without_memory_to_measure_in_stays_dense(monkeypatch):
    def no_memory(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(measure_gpu, "_operands", no_memory)
    weight = torch.randn(4, 3, 3, 3)
    conv = ((1, 1), (1, 1), (1, 1), 1)
    with pytest.warns(UserWarning, match="no GPU memory left to measure a masked layer in"):
        timings = measure_gpu.measure_conv(
            (2, 3, 8, 8), weight, weight > 0, None, conv, torch.contiguous_format
        )
    for arrives in (False, True):
        assert not decide.decide(timings, PASSES, arrives).sparse
