"""An op that does nothing, with every part that an op of sparselth has, in the order to write them.

Copy it, and move each part to the file that stands above it. Run this file: it builds the kernel
beside it and compares it with the oracle.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths, library_paths

# --- sparselth/ops/contract/: the schema, and a fake kernel, which knows shapes and no values ---
# The namespace of sparselth's own ops is "sparselth".

torch.library.define("sparselth_example::identity", "(Tensor x) -> Tensor")


@torch.library.register_fake("sparselth_example::identity")
def _(x):
    return torch.empty_like(x)


# --- sparselth/ops/reference/: the oracle, in plain PyTorch ---
# It is also the default kernel: with it alone the op works on every device and dtype.


def oracle(x: Tensor) -> Tensor:
    return x.clone()


torch.library.register_kernel("sparselth_example::identity", None, oracle)

# --- sparselth/ops/autograd/: the derivative, by ops again, so that it can be differentiated ---


def _backward(ctx, grad):
    return torch.ops.sparselth_example.identity(grad)


torch.library.register_autograd("sparselth_example::identity", _backward)

# --- sparselth/ops/: the public function, which refuses bad input in words ---


def identity(x: Tensor) -> Tensor:
    """Return a copy of x.

    x: any shape, floating point.

    Raises ValueError for another dtype.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    return torch.ops.sparselth_example.identity(x)


# --- csrc/cpu/identity.cpp: the kernel, found by its dispatch key ---
# setup.py compiles every file there; here it is done by hand.


def build(folder: Path) -> None:
    """Compile and load the kernel.  folder: where the library goes."""
    library = folder / "identity.so"
    source = Path(__file__).with_name("identity.cpp")
    includes = [f"-I{path}" for path in include_paths()]
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    torch_cpu = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu"]
    command = ["c++", *flags, *includes, str(source), "-o", str(library), *torch_cpu]
    subprocess.run(command, check=True)
    torch.ops.load_library(str(library))


# --- tests/ops/test_identity.py: the kernel against the oracle, the contract, the derivative ---


def check() -> None:
    """Compare on shapes and dtypes, some with gaps in memory."""
    for dtype in (torch.float32, torch.float64):
        for x in (torch.randn(3, 4, dtype=dtype), torch.randn(4, 6, dtype=dtype)[:, ::2]):
            assert torch.equal(identity(x), oracle(x))
            torch.library.opcheck(torch.ops.sparselth_example.identity, (x.requires_grad_(),))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(identity, x)
    assert torch.autograd.gradgradcheck(identity, x)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        check()
    print("the kernel agrees with the oracle", file=sys.stdout)
