"""Write what every kernel takes of a GPU to benchmarks/results/kernel-resources.md.

    python tests/support/triton/resources.py

Triton's kernels are compiled here for each target; those of `_C_cuda` are read from the library.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests"))
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()

import torch  # noqa: E402
import triton  # noqa: E402
from sparselth.kernels import wide_blocks  # noqa: E402

import sparselth  # noqa: E402
from support.triton.compiling import (  # noqa: E402
    CAPABILITIES,
    TOOLS,
    ask,
    compiled_for,
    instructions,
    launch_boxes,
    launch_convolutions,
    launch_lists,
    resources,
)
from support.triton.inner_loop import inner_loop  # noqa: E402

PATTERNS = ([], [0, 16, 1, 1], [1, 2, 4], [2, 9, 0b11, 0b110])
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")
HEAD = ["registers", "spilled bytes", "shared bytes", "threads", "tensor core instructions"]
LOOP = "warp instructions for 1000 operations"
ABOUT = f"""{LOOP.capitalize()}, those multiplied for kept weights: of the inner loop of a
convolution, from its machine code; the products themselves are among them. A multiprocessor
issues four a cycle, so on an H100 (132 of them, 1.755 GHz) a kernel that takes 1.0 is held to 927
TFLOP/s by issuing alone, and one that takes more to less. By `mma.sync` (HMMA) the tensor cores
give about 620. Of UTCHMMA the code does not say how much it multiplies.

The halo tile was designed for 490 to 600 TFLOP/s of kept work, by wgmma. By `mma.sync`,
`convolve_halo_blocks` issues few enough instructions for more, so that what holds it is the rate of
`mma.sync` or what comes from L2. A turn of `correlate_halo_blocks` also copies its pixels and finds
the next ones (counted once here): it is held to 370 with all 40 blocks of an item, and to less with
fewer. `gpu/rates.py` expects 250 of both until they are measured."""


def triton_lines() -> list[str]:
    """Compile every entry of the launch tables and return a line for each kernel."""
    lines = []
    for capability in CAPABILITIES:
        entries = [("lists", torch.float32, lambda: launch_lists(torch.float32, PATTERNS))]
        for dtype in (torch.bfloat16, torch.float32):
            for size in (16, 32, 64):
                for ordered in (False, True):
                    launch = partial(launch_convolutions, dtype, size, ordered=ordered)
                    entry = f"blocks of {size}" + ", channels gathered" * ordered
                    entries.append((entry, dtype, launch))
        for shape in wide_blocks.SHAPES if capability >= 90 else ():
            launch = partial(launch_boxes, torch.bfloat16, shape)
            entries.append((f"boxes, blocks of {shape[0]} x {shape[1]}", torch.bfloat16, launch))
        for entry, dtype, launch in entries:
            launches = compiled_for(capability)
            launch()
            for kernel in launches.kernels.values():
                r, counts = resources(kernel), instructions(kernel)
                listing = ask("nvdisasm", "-c", "-ndf", of=kernel)
                cores = ", ".join(f"{counts[n]} {n}" for n in TENSOR_CORES if counts[n]) or "none"
                kind = str(dtype).removeprefix("torch.")
                lines.append(
                    f"| {kernel.metadata.name} | {entry}, {kind} | {capability} | {r.registers} | "
                    f"{r.spilled} | {r.shared} | {r.threads} | {cores} | "
                    f"{loop_of(listing, kernel.metadata.name)} |"
                )
    return sorted(set(lines))


def cuda_lines() -> list[str]:
    """Return a line for each kernel of `_C_cuda`, from what cuobjdump says of the library."""
    library = Path(sparselth.__file__).parent / "_C_cuda.so"
    if not library.exists():
        sys.exit("_C_cuda.so is not there: build with CUDA first")
    dump = subprocess.run(
        [str(TOOLS / "cuobjdump"), "--dump-resource-usage", str(library)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines, capability, loops = [], "", inner_loops(library)
    for line in dump.splitlines():
        if found := re.search(r"arch = sm_(\d+)", line):
            capability = found[1]
        elif found := re.search(r"Function (\S+):", line):
            loop, name = loops[capability, found[1]], demangled(found[1])
        elif "REG:" in line:
            use = dict(re.findall(r"(\w+):(\d+)", line))
            lines.append(
                f"| `{name}` | {capability} | {use['REG']} | "
                f"{int(use['STACK']) + int(use['LOCAL'])} | {use['SHARED']} | {loop} |"
            )
    return sorted(set(lines))


def demangled(name: str) -> str:
    """Return the name of a function as it is written, without what it takes."""
    if filt := shutil.which("c++filt"):
        name = subprocess.run([filt, name], capture_output=True, text=True).stdout.strip()
        name = re.sub(r"\([\w: ]+\)(?=\d)", "", name)  # casts of template arguments
    return re.sub(r"sparselth::|\(anonymous namespace\)::|^void ", "", name.split("(")[0])


def inner_loops(library: Path) -> dict[tuple[str, str], str]:
    """Return what `loop_of` says of each function, by capability and mangled name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        extract = [str(TOOLS / "cuobjdump"), "-xelf", "all", str(library)]
        subprocess.run(extract, cwd=folder, capture_output=True, check=True)
        for cubin in Path(folder).glob("*.cubin"):
            capability = re.search(r"sm_(\d+)", cubin.name)[1]
            command = [str(TOOLS / "nvdisasm"), "-c", "-ndf", str(cubin)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for part in re.split(r"(?m)^\.text\.", done.stdout)[1:]:
                name = part.partition(":")[0]
                found[capability, name] = loop_of(part, name)
    return found


def loop_of(listing: str, name: str) -> str:
    """Return what the inner loop of a convolution costs beside its products; "-" of others."""
    loop = inner_loop(listing) if re.search("correlate|convolve|sum_blocks", name) else None
    return f"{loop.per_thousand:.2f}" if loop else "-"


def main() -> None:
    text = [
        "# What kernels take of a GPU",
        "",
        f"- date: {date.today()}",
        "- command: python tests/support/triton/resources.py",
        f"- triton: {triton.__version__}",
        f"- torch: {torch.__version__}",
        "",
        "Compiled without a GPU, for compute capabilities 8.0, 9.0 and 10.0.",
        "",
        ABOUT,
        "",
        "## Triton",
        "",
        f"| kernel | entry | sm | {' | '.join([*HEAD, LOOP])} |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|",
        *triton_lines(),
        "",
        "## CUDA C++",
        "",
        f"| kernel | sm | registers | local bytes | static shared bytes | {LOOP} |",
        "|---|---:|---:|---:|---:|---:|",
        *cuda_lines(),
    ]
    path = ROOT / "benchmarks" / "results" / "kernel-resources.md"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
