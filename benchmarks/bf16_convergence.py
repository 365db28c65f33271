"""Whether training in bf16 reaches what fp32 does: the same masks and seeds, paired.

python benchmarks/bf16_convergence.py --cifar10 FOLDER --fashion-mnist FOLDER [--images 10000]
    [--epochs 10] [--seeds 5] [--sparsity 0.9] [--out FILE]

Each network is trained three times a seed, on the same random masks and in the same order of
images: in fp32 and in bf16 by sparse kernels, and in bf16 densely with the masks multiplied in, by
torch's own autocast. What was trained is written to FILE at once, and not trained again. At the end
a table: test accuracies, and the differences to fp32 with 95 % intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import sparselth as sl
from sparselth.study.analysis.intervals import paired
from sparselth.study.execution.environment import environment

MODELS = ("resnet20", "vgg11")
WAYS = {
    "fp32": ("fp32", None),
    "bf16": ("bf16", None),
    "dense bf16": ("bf16", "reference"),
}
LEARNING_RATE = {"resnet20": 0.1, "vgg11": 0.05}


def trained(model_name: str, data: sl.data.ImageSet, way: str, seed: int, args) -> dict[str, Any]:
    precision, backend = WAYS[way]
    torch.manual_seed(seed)
    channels = data.train_images.shape[1]
    model = sl.models.build(model_name, num_classes=data.num_classes, in_channels=channels)
    masks = sl.find_masks(model, score="random", sparsity=args.sparsity, allocation="erk")
    recipe = sl.Recipe(
        epochs=args.epochs,
        learning_rate=LEARNING_RATE[model_name],
        precision=precision,
        seed=seed,
        evaluate_every=args.epochs,
    )
    with sl.use_backend(backend) if backend else nullcontext():
        history = sl.train(model, data, recipe, masks=masks)
    last = history.records[-1]
    return {"accuracy": last.test_accuracy, "loss": last.train_loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--fashion-mnist", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--out", type=Path, default=Path("build/bf16-convergence.json"))
    args = parser.parse_args()
    sl.keep_freed_memory()
    settings = {k: getattr(args, k) for k in ("images", "epochs", "seeds", "sparsity")}
    rows = json.loads(args.out.read_text())["results"] if args.out.exists() else []
    for name, folder in (("cifar10", args.cifar10), ("fashion-mnist", args.fashion_mnist)):
        if folder is None:
            continue
        data = sl.data.load(name, folder).limited(train=args.images)
        for seed in range(args.seeds):
            for model in MODELS:
                for way in WAYS:
                    what = {"model": model, "data": name, "way": way, "seed": seed}
                    if any(what.items() <= row.items() for row in rows):
                        continue
                    rows.append({**what, **trained(model, data, way, seed, args)})
                    print(rows[-1], flush=True)
                    written(args.out, settings, rows)
    print(table(rows))


def written(path: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"command": "python benchmarks/bf16_convergence.py", **settings}
    text = json.dumps(
        {**facts, "environment": environment(torch.device("cpu")), "results": rows}, indent=1
    )
    part = path.with_suffix(".part")
    part.write_text(text + "\n")
    part.replace(path)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | fp32 | bf16 | dense bf16 | bf16 - fp32 | dense bf16 - fp32 |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for model, data in dict.fromkeys((row["model"], row["data"]) for row in rows):
        by_way = {
            way: {r["seed"]: r["accuracy"] for r in rows
                  if (r["model"], r["data"], r["way"]) == (model, data, way)}
            for way in WAYS
        }  # fmt: skip
        cells = [f"{sum(each.values()) / max(len(each), 1):.2f}" for each in by_way.values()]
        for way in ("bf16", "dense bf16"):
            found = paired(by_way[way], by_way["fp32"], 0.95)
            cells.append(found.text() if found else "-")
        lines.append(f"| {model} on {data} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
