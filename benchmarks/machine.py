"""Write down what a number means nothing without: device, versions, what was built.

python benchmarks/machine.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Return the device's name and what `sparselth info` shows."""
    import torch

    from sparselth import info

    report = info.collect()
    # Folders of one machine say nothing elsewhere. A probe that failed left a sentence instead.
    for probe, folder in (("toolkits", "CUDA_HOME"), ("build", "cuda_home")):
        if isinstance(report[probe], dict):
            report[probe].pop(folder, None)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {"device": device, "report": report}


def main() -> None:
    found = facts()
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    versions, libraries = found["report"]["versions"], found["report"]["libraries"]
    states = "; ".join(f"{name} {state}" for name, state in libraries.items())
    print(f"{found['device']}, torch {versions['torch']}, triton {versions['triton']}; {states}")


if __name__ == "__main__":
    main()
