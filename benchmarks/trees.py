"""Time two trees of this repository in turn: what a change that should cost nothing costs.

python benchmarks/trees.py OLD NEW FILE.json     both built, see `setup.py build_ext --inplace`

Each runs in a process of its own, three times by turns; the least of each figure counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 3


def best(call: Callable[[], object], seconds: float) -> float:
    """Return the least of many calls, in milliseconds."""
    for _ in range(3):
        call()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
    return round(1e3 * least, 3)


def measure() -> dict[str, float]:
    """Return milliseconds by name: steps, layers and lists, through what every tree has."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    import sparselth as sl

    sl.keep_freed_memory()
    torch.manual_seed(0)
    times = {}
    for name in ("resnet20", "vgg11"):
        model = sl.models.build(name, num_classes=10, in_channels=3)
        sl.sparsify(model, sl.find_masks(model, sparsity=0.95))
        optimizer = sl.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        images, labels = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))

        def step(model=model, optimizer=optimizer, images=images, labels=labels) -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

        times[f"step, {name}, 95 %"] = best(step, 3)
        times[f"SGD, {name}"] = best(optimizer.step, 1)
    row = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(4)))
    linear = nn.Linear(2048, 2048)
    for module, sparsity in ((row, 0.95), (linear, 0.9)):
        sl.sparsify(module, sl.find_masks(module, sparsity=sparsity, exclude=()))
    x = torch.randn(64, 64, 32, 32, requires_grad=True)
    grad = torch.randn(64, 64, 32, 32)
    times["four convolutions, 64 channels, 32x32, 95 %"] = best(lambda: row(x).backward(grad), 3)
    rows, back = torch.randn(128, 2048, requires_grad=True), torch.randn(128, 2048)
    times["linear 2048, 90 %"] = best(lambda: linear(rows).backward(back), 2)
    w, z, u = ([torch.randn(512, 512, 3, 3) for _ in range(4)] for _ in range(3))
    times["admm_project_"] = best(lambda: sl.ops.admm_project_(w, z, u, sparsity=0.9), 2)
    a, b = ({str(i): t for i, t in enumerate(tensors)} for tensors in (w, u))
    times["weight_overlap"] = best(lambda: sl.weight_overlap(a, b, 0.2), 2)
    dense = sl.models.build("vgg11", num_classes=10, in_channels=3)
    times["find_masks, vgg11"] = best(lambda: sl.find_masks(dense, sparsity=0.9), 2)
    return times


def main() -> None:
    if sys.argv[1] == "--measure":
        sys.path.insert(0, sys.argv[2])
        import sparselth

        assert Path(sparselth.__file__).is_relative_to(sys.argv[2]), sparselth.__file__
        print(json.dumps(measure()))
        return
    trees = {
        name: str(Path(path).resolve()) for name, path in zip("ab", sys.argv[1:3], strict=True)
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(ROUNDS):
        for name, path in trees.items():
            command = [sys.executable, __file__, "--measure", path]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(done.stdout))
    least = {n: {k: min(run[k] for run in rs) for k in rs[0]} for n, rs in runs.items()}
    heads = {
        name: subprocess.run(
            ["git", "-C", path, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        for name, path in trees.items()
    }
    for key, before in least["a"].items():
        after = least["b"][key]
        print(f"{key:45} {before:8.2f} {after:8.2f} ms  {before / after:.3f}")
    found = {"command": "python benchmarks/trees.py OLD NEW", "trees": heads, "ms": least}
    from machine import facts

    text = json.dumps({**facts(), **found, "runs": runs}, indent=1) + "\n"
    Path(sys.argv[3]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
