"""`sparselth study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from ..errors import SparselthError
from ..settings import read_yaml
from .shared import DATA, MODELS, set_threads

_Text = str | None
_Whole = int | None
_Number = float | None


def study(
    preset: Annotated[
        _Text,
        typer.Option(
            help="Start from: demo (without --config), smoke, sanity, scores, mnist5k, "
            "mnist5k-textured, "
            "paper-cifar10, paper-cifar100, paper-table1, paper-rewinding."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of settings. What it leaves out is the preset's, or as in the paper."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; the same one again goes on.")
    ] = None,
    models: Annotated[_Text, typer.Option(help=f"{MODELS} Or your own: module:function.")] = None,
    width: Annotated[_Number, typer.Option(help="Multiplies the channels of the models.")] = None,
    data: Annotated[_Text, typer.Option(help=f"{DATA} Or imagefolder.")] = None,
    data_root: Annotated[_Text, typer.Option(help="Folder with the data sets' files.")] = None,
    train_limit: Annotated[_Whole, typer.Option(help="Training images to use; 0 for all.")] = None,
    learning_rates: Annotated[_Text, typer.Option(help="Such as 0.01,0.1.")] = None,
    generators: Annotated[
        _Text,
        typer.Option(
            help="Of masks: magnitude, imp, admm, random; by a score, at initialization: snip, "
            "grasp, grasp-abs, synflow, magnitude-init; after training: taylor, movement, and of "
            "filters l1, l2, fpgm, fpgm-mix, taylor-filter, hrank, dropnet, mean-activation, apoz, "
            "bn-scale, conditional-entropy, lasso, greedy-forward, lfpc; early-bird, edge-popup. "
            "-shuffled or -inverted after one."
        ),
    ] = None,
    sparsities: Annotated[_Text, typer.Option(help="Such as 0.9,0.95.")] = None,
    protocols: Annotated[
        _Text,
        typer.Option(
            help="Of ticket, reinit, shuffle, finetune, rewind, lr-rewind, small-lr, small-dense, "
            "scratch-e, scratch-b."
        ),
    ] = None,
    seeds: Annotated[_Text, typer.Option(help="Such as 0,1,2.")] = None,
    allocation: Annotated[
        _Text, typer.Option(help="uniform (per layer), global, lamp or erk.")
    ] = None,
    epochs: Annotated[_Whole, typer.Option(help="Epochs of every training.")] = None,
    batch_size: Annotated[_Whole, typer.Option(help="Images per step.")] = None,
    weight_decay: Annotated[_Number, typer.Option(help="L2 penalty.")] = None,
    admm_epochs: Annotated[_Whole, typer.Option(help="Epochs of ADMM's search.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of a YAML file, such as imp_rate=0.2."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch.")] = 0,
    workers: Annotated[
        _Whole, typer.Option(help="Processes that share the work; 0 is one per GPU.")
    ] = None,
    cluster: Annotated[_Text, typer.Option(help="Submit the work to slurm, or local.")] = None,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(help="Of submitit, such as slurm_partition=gpu; may be repeated."),
    ] = None,
    jobs: Annotated[_Whole, typer.Option(help="Cluster jobs in the queue at once.")] = None,
) -> None:
    """Compare winning ticket, random re-initialization and pruning & fine-tuning on a grid.

    Killed at any moment and started again with the same command, it goes on where it was. A part
    that fails does not stop the rest; the exit code is then 1.
    """
    # Imported here, so that `sparselth info` does not wait for matplotlib.
    from ..study import InProcess, Processes, StudyConfig, Submitit, run
    from ..study import preset as find_preset
    from ..study.execution.executors import Executor
    from ..study.execution.progress import for_console
    from ..study.report import print_report

    flags = {
        "models": models,
        "width": width,
        "data": data,
        "data_root": data_root,
        "train_limit": train_limit,
        "learning_rates": learning_rates,
        "generators": generators,
        "sparsities": sparsities,
        "protocols": protocols,
        "seeds": seeds,
        "allocation": allocation,
        "epochs": epochs,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "admm_epochs": admm_epochs,
    }
    settings = read_yaml(config) if config else {}
    settings |= {name: value for name, value in flags.items() if value is not None}
    settings |= _assignments("--set", setting)
    options = _assignments("--cluster-option", cluster_option)
    if workers is not None and cluster is not None:
        raise SparselthError("got both --workers and --cluster; the work goes to one of them")
    if cluster is None and (options or jobs is not None):
        flag = "--cluster-option" if options else "--jobs"
        raise SparselthError(f"got {flag} without --cluster; name the cluster, too")
    if cluster is not None and threads:
        raise SparselthError(
            "got --threads with --cluster; a job has the threads of its CPUs: pass "
            f"--cluster-option cpus_per_task={threads}"
        )
    if preset is None and config is not None:
        start, name = StudyConfig(), config.stem
    else:
        name = preset or "demo"
        start = find_preset(name)
    chosen = start.changed(settings)
    set_threads(threads)
    folder = out or Path("runs") / name
    executor: Executor
    if cluster is not None:
        at_once = {} if jobs is None else {"jobs": jobs}
        executor = Submitit(folder, cluster, options=options, device=device, **at_once)
    elif workers is not None:
        executor = Processes(workers, device, threads)
    else:
        executor = InProcess(device)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log has no edge to fit
    summary = run(chosen, folder, executor=executor, progress=for_console(console))
    print_report(summary, folder, console)
    if summary["failures"]:
        raise typer.Exit(1)


def _assignments(flag: str, given: list[str] | None) -> dict[str, Any]:
    """Read NAME=VALUE, the value as YAML has it."""
    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise SparselthError(f"{flag} got {text!r}, expected NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise SparselthError(f"{flag} got {text!r}, whose value is no YAML") from None
    return found
