"""Print the build summary again; with --loaded, make sure that the libraries load here.

pip hides what setup.py prints, so the Makefile calls this after an installation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m build_support", description=__doc__)
    parser.add_argument("--loaded", default="", help="comma-separated libraries that must load")
    parser.add_argument(
        "--other-torch", action="store_true", help="fail unless torch differs from the build's"
    )
    arguments = parser.parse_args()
    record = json.loads((ROOT / "sparselth" / "_build_info.json").read_text(encoding="utf-8"))
    if arguments.loaded:
        check_loaded(arguments.loaded.split(","), record["torch"], arguments.other_torch)
        return
    from .command import summary

    print(summary(record))


def check_loaded(names: list[str], built_with: str, other_torch: bool) -> None:
    import torch

    from sparselth.ops import loader

    if other_torch and torch.__version__ == built_with:
        sys.exit(f"this is torch {built_with}, the one the libraries were built with")
    for status in loader.status():
        if status.name in names and not status.loaded:
            sys.exit(
                f"{status.name} does not load under torch {torch.__version__}: {status.reason}"
            )
    print(f"built with torch {built_with}, loaded by {torch.__version__}: {', '.join(names)}")


if __name__ == "__main__":
    main()
