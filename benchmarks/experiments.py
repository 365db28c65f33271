"""The experiments of first light, by name: each prints a line per measurement, and keeps it.

python3 benchmarks/experiments.py NAME...        names: the functions in EXPERIMENTS

Needs torch and triton, no test runner. `first_light.py` runs them one by one.
"""

from __future__ import annotations

import contextlib
import cProfile
import pstats
import sys
import time
import traceback
from collections.abc import Callable

import first_light_conv
import torch
from first_light_rows import DEVICE, DRY, DTYPE, LAST, keep, microseconds, say
from gpu_timing import cudnn, event_microseconds, in_graph, kernel_microseconds, require_cudnn
from torch import nn
from training_gpu import BATCH, dense, sparse, training_step

import sparselth as sl


def ceilings() -> None:
    """Time what no kernel beats: copies, products of matrices, launches in a graph."""
    big, small = (1 << 20, 1 << 16) if DRY else (1 << 30, 8 << 20)  # bytes; 8 MiB stay in the L2
    for what, count, calls in (("memory", big, 3), ("second-level cache", small, 20)):
        source = torch.empty(count, dtype=torch.uint8, device=DEVICE)
        target = torch.empty_like(source)
        us = microseconds(lambda a=source, b=target: b.copy_(a), calls)
        keep("ceiling: copy", what, 0.0, {"us": us}, TB_per_s=round(2 * count / us / 1e6, 2))
    n = 64 if DRY else 8192
    matrix = torch.randn(n, n, device=DEVICE, dtype=DTYPE)
    us = microseconds(lambda: matrix @ matrix, 3)
    keep("ceiling: matmul", f"{n}x{n}", 0.0, {"us": us}, TF=round(2 * n**3 / us / 1e6, 1))
    us = microseconds(lambda: target[:16].zero_(), 100)
    keep("ceiling: launch in a graph", "16 bytes", 0.0, {"us": us})


STEPS = (
    *(("vgg11", "32x32", 0.9), ("resnet20", "16x16", 0.9)),
    *(("vgg11", "element", 0.98), ("resnet20", "element", 0.98)),
)


def steps() -> None:
    """Time whole training steps as graphs, and list the kernels that they consist of."""
    for name, pattern, sparsity in STEPS[:1] if DRY else STEPS:
        values = {}
        with cudnn():
            for contestant in (sparse, dense):
                require_cudnn()
                model, optimizer = contestant(name, pattern, sparsity, DEVICE)
                step = training_step(model, optimizer, 2 if DRY else BATCH)
                label = contestant.__name__
                if DRY:
                    values[label] = microseconds(step)
                    continue
                replay = in_graph(step, before=optimizer.zero_grad)
                values[label] = event_microseconds(replay, rounds=20)
                longest = dict(list(kernel_microseconds(replay).items())[:25])
                say(f"kernels of {name}, {pattern}, {label}", us=longest)
        over = "dense bf16, channels_last, as a CUDA graph"
        keep("training step", f"{name}, {pattern}", sparsity, values, over)


def host() -> None:
    """Time what Python takes for a masked convolution, forward and backward, beside nn.Conv2d."""
    calls = 3 if DRY else 200
    x = torch.randn(4, 64, 8, 8, device=DEVICE).to(memory_format=LAST).requires_grad_()

    def layer() -> nn.Sequential:
        conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        return nn.Sequential(conv).to(DEVICE, memory_format=LAST)

    mask = sl.ops.topk_mask(torch.rand(64, 64, 3, 3, device=DEVICE), 4, pattern="32x32")
    masked, plain = sl.sparsify(layer(), {"0.weight": mask}), layer()

    def step(model: nn.Module) -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            y = model(x)
        y.backward(torch.ones_like(y))

    def many(model: nn.Module) -> float:
        for _ in range(calls):
            step(model)
        finish()
        begun = time.perf_counter()
        for _ in range(calls):
            step(model)
        finish()
        return 1e6 * (time.perf_counter() - begun) / calls

    around = {"fixed table": lambda: sl.use_choice("fixed")}
    for backend in ("triton", "cuda", "reference"):
        around[f"forced {backend}"] = lambda name=backend: first_light_conv.forced(name)
    theirs = many(plain)
    for name, context in {"measured": contextlib.nullcontext, **around}.items():
        if DRY and name in ("forced triton", "forced cuda"):
            continue  # modules on a CPU have no such kernels
        with context():
            values = {"sparse": many(masked), "dense": theirs}
        keep("eager layer, host's time", name, 0.9, values, "nn.Conv2d, eager")
    profile_of(lambda: many(masked))


def profile_of(call: Callable[[], object]) -> None:
    """Print where Python spends its time in a call."""
    profile = cProfile.Profile()
    profile.runcall(call)
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(30)


def finish() -> None:
    """Wait for the GPU."""
    if not DRY:
        torch.cuda.synchronize()


def lists() -> None:
    """Time the ops on lists of tensors against a copy of the bytes they must move."""
    ops = torch.ops.sparselth
    for shapes in ([(250_000 if DRY else 25_000_000,)], [(512, 512, 3, 3)] * (1 if DRY else 4)):
        w, g, m = ([torch.randn(s, device=DEVICE) for s in shapes] for _ in range(3))
        z, u = ([torch.zeros_like(t) for t in w] for _ in range(2))
        total, k = sum(t.numel() for t in w), [t.numel() // 10 for t in w]
        mask = [torch.rand(t.shape, device=DEVICE) < 0.1 for t in w]

        def project(w=w, z=z, u=u, k=k):
            return ops.admm_project_(w, z, u, k, False, [], True)

        def step(w=w, g=g, m=m, mask=mask):
            return ops.masked_sgd_(w, g, m, mask, [], [], 0.1, 0.9, 0.0, 1e-4, False, 0.0)

        # Bytes of a weight: W and U for three digits and once more, Z read, Z and U written; W, its
        # gradient and momentum read, two of them written, and the mask.
        _against_a_copy("admm_project_", f"{len(shapes)} x {shapes[0]}", project, 44 * total)
        _against_a_copy("masked_sgd_", f"{len(shapes)} x {shapes[0]}", step, 21 * total)
        if len(shapes[0]) == 4:  # as the weights of a model that is channels_last
            w, g, m = ([t.to(memory_format=LAST) for t in some] for some in (w, g, m))
            mixed = lambda w=w, g=g, m=m: step(w, g, m)  # noqa: E731
            label = f"{len(shapes)} x {shapes[0]}, channels_last, contiguous mask"
            _against_a_copy("masked_sgd_", label, mixed, 21 * total)


def _against_a_copy(op: str, problem: str, call: Callable[[], object], count: int) -> None:
    source = torch.empty(count // 2, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    values = {
        "sparse": microseconds(call, 3),
        "dense": microseconds(lambda: target.copy_(source), 3),
    }
    keep(op, problem, 0.9, values, "a copy of the bytes it must move")


EXPERIMENTS: dict[str, Callable[[], None]] = {
    "ceilings": ceilings,
    "dense": first_light_conv.dense,
    "blocks": first_light_conv.blocks,
    "scattered": first_light_conv.scattered,
    "tma": first_light_conv.tma,
    "steps": steps,
    "host": host,
    "lists": lists,
}


def main() -> int:
    unknown = [name for name in sys.argv[1:] if name not in EXPERIMENTS]
    if unknown or len(sys.argv) < 2:
        print(f"unknown: {', '.join(unknown) or 'none given'}; known: {', '.join(EXPERIMENTS)}")
        return 2
    failed = []
    for name in sys.argv[1:]:
        try:
            EXPERIMENTS[name]()
        except (Exception, SystemExit) as error:  # the next one may know nothing of it
            traceback.print_exc(limit=-4)
            failed.append(f"{name}: {type(error).__name__}: {str(error)[:120]}")
    print("; ".join(failed) or "all measured" + (", on small shapes without a GPU" if DRY else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
