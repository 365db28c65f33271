"""The command line: `sparselth study`, `bench`, `profile`, `info`."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from ..errors import SparselthError
from ..memory import keep_freed_memory
from ..version import __version__
from .bench import bench
from .profile import profile
from .shared import show_warning
from .study import study

app = typer.Typer(
    help="Train sparse networks fast, and compare the ways to get them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error of ours is one sentence and exit code 2."""
    warnings.showwarning = show_warning  # type: ignore[assignment]
    keep_freed_memory()
    try:
        app()
    except SparselthError as error:
        text = str(error)
        print(f"sparselth: {text}{'' if text.endswith('?') else '.'}", file=sys.stderr)
        raise SystemExit(2) from None


def _show_version(asked: bool) -> None:
    if asked:
        print(f"sparselth {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def info() -> None:
    """Show what was built, what can run here, and why not the rest."""
    from ..info import render

    print(render())


for command in (profile, bench, study):
    app.command()(command)
