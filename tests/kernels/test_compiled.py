"""Every kernel, as the launchers launch it, compiled for GPUs that are not here.

Triton's driver is replaced by one that names a target, and launches end when the kernel is
compiled. What is compiled is thus what a GPU would run: the launch tables' blocks and warps, the
types and the specialisation of the arguments.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

triton = pytest.importorskip("triton", reason="the kernels are Triton's")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

import agreement  # noqa: E402
import sparselth.kernels  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

PATTERNS = (
    *([], [0, 16, 1, 1], [0, 1, 16, 1], [0, 1, 0, 0], [0, 0, 1, 0]),
    *([1, 2, 4], [1, 4, 32], [2, 9, 0b11, 0b110], [2, 9, *range(16, 32)]),
)


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
    kernels: dict[str, object] = field(default_factory=dict)


@pytest.fixture
def compiling(monkeypatch, tmp_path):
    """Return a function that sets the target and returns the list of launches to come."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run = JITFunction.run

    def for_target(capability: int) -> Launches:
        monkeypatch.setattr(driver, "_active", Target(capability))
        launches = Launches()

        def compile_only(self, *args, grid, warmup, **options):
            kernel = run(self, *args, grid=grid, warmup=True, **options)
            launches.names.append(self.fn.__name__)
            launches.kernels[kernel.hash] = kernel
            return kernel

        monkeypatch.setattr(JITFunction, "run", compile_only)
        return launches

    return for_target


def launch_all(dtype, patterns, count=3):
    """Call every launcher in every form; on tensors that stay where they are."""
    call = {op: agreement.kernel(sparselth.kernels, op) for op in agreement.OPS}
    tensors = [torch.empty(64, 64, 3, 3, dtype=dtype) for _ in range(count)]
    masks = [torch.empty(64, 64, 3, 3, dtype=torch.bool) for _ in range(count)]
    for pattern in patterns:
        for pooled in (False, True):
            k = [5] if pooled else [5] * count
            call["topk_mask"](tensors, k, pooled, pattern)
            call["admm_project_"](tensors, tensors, tensors, k, pooled, pattern, pooled)
    for inside in ([], masks):
        call["weight_overlap"](tensors, tensors, inside, [5] * 2 * count)
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        settings = (0.1, momentum, 0.0, 1e-4, nesterov, 0.02)
        call["masked_sgd_"](tensors, tensors, tensors, masks, tensors, tensors, *settings)
        call["masked_sgd_"](tensors, tensors, tensors, [], [], [], *settings)


def resources(kernel) -> str:
    """Return what ptxas says of a kernel: registers, spills, shared memory."""
    ptx = kernel.asm["ptx"]
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    fused = [] if kernel.metadata.enable_fp_fusion else ["--fmad=false"]
    ptxas = get_ptxas(kernel.metadata.target.arch).path
    done = subprocess.run(
        [
            ptxas,
            "-v",
            *fused,
            "--regAllocOptLevel=2",
            f"--gpu-name={target}",
            "-o",
            "/dev/null",
            "-",
        ],
        input=ptx,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_kernels_fit_the_machine(compiling, capability):
    launches = compiling(capability)
    launch_all(torch.float32, PATTERNS)
    if capability == 90:
        launch_all(torch.float64, PATTERNS[::2])
        for dtype in (torch.float16, torch.bfloat16):
            launch_all(dtype, PATTERNS[:2])
    kernels = list(launches.kernels.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(resources, kernels))
    for kernel, report in zip(kernels, reports, strict=True):
        name = kernel.metadata.name
        assert "0 bytes spill stores, 0 bytes spill loads" in report, f"{name} spills:\n{report}"
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        threads = 32 * kernel.metadata.num_warps
        assert registers * threads <= 65536 // 2, f"{name}: fewer than two blocks fit:\n{report}"
        assert kernel.metadata.shared <= 48 * 1024
        # Denormals are ordinary numbers, and squares are rounded before they are added.
        assert ".ftz" not in kernel.asm["ptx"], name
        if name.startswith("score_"):
            assert "fma.rn.f64" not in kernel.asm["ptx"], name
    assert {kernel.metadata.name for kernel in kernels} == {
        *("write_words", "count_digit", "count_ties", "write_mask", "score_boxes", "score_shapes"),
        *("keep_n_of_m", "expand", "project", "add_partials", "count_common", "sgd_step"),
    }


def test_the_number_of_launches_does_not_grow_with_the_list(compiling):
    launches = compiling(90)
    found = []
    for count in (3, 40):
        del launches.names[:]
        launch_all(torch.float32, ([], [0, 16, 1, 1], [1, 2, 4]), count)
        found.append([name for name in launches.names if name != "write_words"])
    assert found[0] == found[1]


def test_a_step_on_the_same_tensors_is_one_launch(compiling):
    launches = compiling(90)
    tensors = [torch.empty(100) for _ in range(50)]
    step = agreement.kernel(sparselth.kernels, "masked_sgd_")
    for _ in range(2):
        step(tensors, tensors, [], [], [], [], 0.1, 0.0, 0.0, 0.0, False, 0.0)
    assert launches.names == ["write_words", "write_words", "sgd_step", "sgd_step"]


def test_lengths_and_places_compile_nothing_new(compiling):
    launches = compiling(90)
    topk_mask = agreement.kernel(sparselth.kernels, "topk_mask")
    topk_mask([torch.empty(5000), torch.empty(77)], [100, 3], False, [])
    before = set(launches.kernels)
    for sizes in ((16, 160_000), (1, 1), (3_000_000, 3)):
        tensors = [torch.empty(n + 1)[1:] for n in sizes]
        topk_mask(tensors, [1, 0], False, [])
    assert set(launches.kernels) == before
