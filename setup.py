"""Package map and native libraries. Metadata: pyproject.toml; build logic: build_support/.

Environment: SPARSELTH_BUILD=auto|cuda|cpu|none, FORCE_CUDA=1, TORCH_CUDA_ARCH_LIST, MAX_JOBS,
CUDA_HOME, CXX, CXXFLAGS, LDFLAGS, NVCC_THREADS. What was built, and why not the rest, is printed
and kept in sparselth/_build_info.json (`sparselth info` shows it).
"""

import sys
from pathlib import Path

import setuptools
from setuptools import Extension, find_packages, setup

if int(setuptools.__version__.split(".")[0]) < 77:
    # Without build isolation nobody else checks it, and the error would be about the license.
    raise SystemExit(
        f"sparselth needs setuptools 77 or newer to build, this is {setuptools.__version__}: "
        "pip install --upgrade setuptools"
    )

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # an isolated build does not put the project's folder on the path

from build_support.command import SOURCES, BuildNative  # noqa: E402

setup(
    # Only these: find_packages() alone would install kernels, tests and benchmarks top-level,
    # and `kernels` is another project's import name.
    packages=[*find_packages(include=["sparselth", "sparselth.*"]), "sparselth.kernels"],
    package_dir={"sparselth.kernels": "kernels"},
    package_data={
        "sparselth": ["py.typed"],
        "sparselth.study.report": ["templates/*.j2"],
    },
    include_package_data=False,
    ext_modules=[
        Extension(f"sparselth.{name}", [str(path.relative_to(ROOT)) for path in paths])
        for name, paths in SOURCES.items()
    ],
    cmdclass={"build_ext": BuildNative},
    zip_safe=False,
)
