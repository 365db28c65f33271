"""Kernels compiled as the launchers launch them, for GPUs that are not here.

Triton's driver is replaced by one that names a target, and launches end when the kernel is
compiled. What is compiled is thus what a GPU would run: the launch tables' blocks and warps, the
types and the specialization of the arguments.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import sparselth.kernels
import torch
import triton
from sparselth.kernels import masked_conv2d_tma
from sparselth.kernels.blocks import NO_ORDERS, find_blocks, order_channels
from sparselth.kernels.wide_blocks import cheapest_wide_blocks
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from support.triton import agreement

CAPABILITIES = (80, 90, 100)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Target:
    """A driver without a device."""

    capability: int

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # kernels are kept per device

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass
class Launches:
    """What was launched: names in order, and the different kernels that were compiled for it."""

    names: list[str] = field(default_factory=list)
    kernels: dict[str, Any] = field(default_factory=dict)


_run = JITFunction.run


def compiled_for(capability: int, put: Callable[[Any, str, Any], None] = setattr) -> Launches:
    """Set the target and return the list of launches to come. put: pytest's monkeypatch.setattr."""
    put(driver, "_active", Target(capability))
    launches = Launches()

    def compile_only(self, *args, grid, warmup, **options):
        kernel = _run(self, *args, grid=grid, warmup=True, **options)
        launches.names.append(self.fn.__name__)
        launches.kernels[kernel.hash] = kernel
        return kernel

    put(JITFunction, "run", compile_only)
    return launches


def launch_lists(dtype, patterns, count=3) -> None:
    """Call every launcher of lists in every form; on tensors that stay where they are."""
    call = {op: agreement.kernel(sparselth.kernels, op) for op in agreement.OPS}
    tensors = [torch.empty(64, 64, 3, 3, dtype=dtype) for _ in range(count)]
    masks = [torch.empty(64, 64, 3, 3, dtype=torch.bool) for _ in range(count)]
    for pattern in patterns:
        for global_ in (False, True):
            k = [5] if global_ else [5] * count
            call["topk_mask"](tensors, k, global_, pattern)
            call["admm_project_"](tensors, tensors, tensors, k, global_, pattern, global_)
    for inside in ([], masks):
        call["weight_overlap"](tensors, tensors, inside, [5] * 2 * count)
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        settings = (0.1, momentum, 0.0, 1e-4, nesterov, 0.02)
        call["masked_sgd_"](tensors, tensors, tensors, masks, tensors, tensors, *settings)
        call["masked_sgd_"](tensors, tensors, tensors, [], [], [], *settings)
    counts = [torch.empty(()) for _ in range(count)]
    adamw = (0.1, 0.9, 0.999, 1e-8, 1e-2, 0.02)
    for steps in ([], counts):
        pulled = [tensors] * 4 + [masks, tensors, tensors]
        call["masked_adamw_"](*pulled, steps, 7, *adamw)
        call["masked_adamw_"](*[tensors] * 4, [], [], [], steps, 7, *adamw)


def launch_convolutions(dtype, size, channels=128, batch=8, extent=16, *, ordered=False) -> None:
    """Call the launchers of a convolution's three passes, with blocks of `size`.

    ordered: every other filter and channel is dead, and blocks are those of the rest.
    """
    mask = torch.ones(channels, channels, 3, 3, dtype=torch.bool)
    if ordered:
        mask[::2], mask[:, ::2] = False, False
    weight = torch.empty(mask.shape, dtype=dtype)
    index = find_blocks(mask, 1, size, order_channels(mask) if ordered else NO_ORDERS)
    x = torch.empty(batch, channels, extent, extent, dtype=dtype)
    x, conv = x.contiguous(memory_format=torch.channels_last), ((1, 1), (1, 1), (1, 1))
    call = {op: agreement.kernel(sparselth.kernels, op) for op in agreement.CONVOLUTIONS}
    bias = torch.empty(channels, dtype=dtype)
    y = call["masked_conv2d"](x, weight, mask, bias, index, *conv, relu=True)
    call["masked_conv2d_grad_input"](y, weight, mask, index, (extent, extent), *conv)
    call["masked_conv2d_grad_weight"](y, x, mask, index, *conv)


def launch_boxes(dtype, shape, channels=128, batch=8, extent=16) -> None:
    """Call the launchers by copied boxes, with blocks of a shape, for both passes."""
    mask = torch.ones(channels, channels, 3, 3, dtype=torch.bool)
    weight, index = torch.empty(mask.shape, dtype=dtype), cheapest_wide_blocks(mask, {shape: 1.0})
    x = torch.empty(batch, channels, extent, extent, dtype=dtype)
    x, bias = x.contiguous(memory_format=torch.channels_last), torch.empty(channels, dtype=dtype)
    packed, conv = masked_conv2d_tma.pack(weight, mask, index), ((1, 1), (1, 1))
    y = masked_conv2d_tma.masked_conv2d_tma(x, packed, bias, index, *conv, relu=True)
    run = masked_conv2d_tma.masked_conv2d_tma_grad_input
    run(y, packed, index, (extent, extent), *conv)


class Resources(NamedTuple):
    """What a kernel takes of the machine. spilled, shared: bytes."""

    registers: int
    spilled: int
    shared: int
    threads: int


def resources(kernel) -> Resources:
    """Read what a compiled kernel takes."""
    found = ask("cuobjdump", "--dump-resource-usage", of=kernel)
    use = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", found)}
    return Resources(
        use["REG"],
        spilled(kernel) if use["STACK"] + use["LOCAL"] else 0,
        kernel.metadata.shared,
        32 * kernel.metadata.num_warps,
    )


def spilled(kernel) -> int:
    """Ask ptxas, in the words that triton asks it in: not all that is on a stack was spilled."""
    ptx = kernel.asm["ptx"]
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    fused = [] if kernel.metadata.enable_fp_fusion else ["--fmad=false"]
    limits = ["-v", *fused, "--regAllocOptLevel=2", f"--gpu-name={target}"]
    ptxas = get_ptxas(kernel.metadata.target.arch).path
    command = [ptxas, *limits, "-o", "/dev/null", "-"]
    done = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    return int(found[1]) + int(found[2])


def instructions(kernel) -> Counter[str]:
    """Count the machine instructions of a kernel by name, without their modifiers."""
    listing = ask("nvdisasm", "-c", "-ndf", of=kernel)
    return Counter(re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?(\w+)", listing, re.M))


def ask(tool: str, *options: str, of) -> str:
    """Return what one of the tools that come with triton says of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(of.asm["cubin"])
        cubin.flush()
        command = [str(TOOLS / tool), *options, cubin.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
