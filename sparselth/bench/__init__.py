"""The benchmarks of the kernels, in a quick form: problems, baselines and timers.

`benchmarks/` of the repository measures the same at length. `sparselth bench` is this from the
command line.
"""

from .suite import BENCHES, Case, cases, measure

__all__ = ["BENCHES", "Case", "cases", "measure"]
