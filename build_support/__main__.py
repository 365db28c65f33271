"""Print the build summary again; with --other-torch, load the libraries under another torch.

pip hides what setup.py prints, so the Makefile calls this after an installation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m build_support", description=__doc__)
    parser.add_argument(
        "--other-torch",
        action="store_true",
        help="fail unless this torch differs from the build's and loads all that was built",
    )
    arguments = parser.parse_args()
    record = json.loads((ROOT / "sparselth" / "_build_info.json").read_text(encoding="utf-8"))
    if arguments.other_torch:
        load_under_other_torch(record)
        return
    from .command import summary

    print(summary(record))


def load_under_other_torch(record: dict[str, Any]) -> None:
    import torch

    from sparselth.ops import libraries

    if torch.__version__ == record["torch"]:
        sys.exit(f"this is torch {torch.__version__}, the one the libraries were built with")
    built = [name for name, state in record["libraries"].items() if state["built"]]
    if not built:
        sys.exit("no library was built, so none can be tried under another torch")
    for status in libraries.status():
        if status.name in built and not status.loaded:
            sys.exit(f"{status.name} does not load: {status.reason}")
    print(f"built with torch {record['torch']}, loaded by {torch.__version__}: {', '.join(built)}")


if __name__ == "__main__":
    main()
