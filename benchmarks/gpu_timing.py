"""How the benchmarks time a GPU, and what a dense baseline of theirs must run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Call = Callable[[], object]


@contextmanager
def cudnn(allow_tf32: bool = True) -> Iterator[None]:
    """Let cuDNN compute dense convolutions, by the fastest of the algorithms that it tries.

    `torch.backends.cudnn.flags` switches cuDNN off unless it is told otherwise: a baseline measured
    so is several times slower than what people train with.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=allow_tf32):
        yield


def require_cudnn() -> None:
    """Refuse to measure a dense baseline without cuDNN: every ratio over it would be false."""
    assert torch.backends.cudnn.is_available(), "this torch has no cuDNN to measure dense with"
    assert torch.backends.cudnn.enabled, "cuDNN is switched off, and dense is about to be measured"


def milliseconds(call: Call) -> float:
    """Return the median of some calls with a cold L2 cache."""
    from triton.testing import do_bench

    return do_bench(call, warmup=2, rep=10, return_mode="median")


def dense_milliseconds(call: Call) -> float:
    """Return `milliseconds` of a dense baseline, which must have cuDNN."""
    require_cudnn()
    return milliseconds(call)


def in_graph(call: Call, calls: int = 1, before: Call = lambda: None) -> Call:
    """Return the replay of a CUDA graph of some calls: no host in between.

    before: called once more between the calls that warm up and the capture.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    before()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def event_microseconds(call: Call, rounds: int = 7) -> float:
    """Return the median of some calls between two events, the caches as the call leaves them."""
    times = []
    for _ in range(rounds + 2):  # the first two bring clocks and caches in
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return sorted(times[2:])[rounds // 2]


def graph_microseconds(call: Call, calls: int = 10) -> float:
    """Return the time of one call within a CUDA graph of some."""
    return event_microseconds(in_graph(call, calls)) / calls


def kernel_microseconds(call: Call, calls: int = 5) -> dict[str, float]:
    """Return the time that each kernel takes in one call, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as recorder:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    events = sorted(recorder.key_averages(), key=lambda e: e.self_device_time_total, reverse=True)
    spent = ((e.key[:48], e.self_device_time_total) for e in events)
    return {name: round(us / calls, 2) for name, us in spent if us > 0}
