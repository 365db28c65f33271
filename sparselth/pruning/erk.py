"""ERK: how sparse each layer is to be, by its shape alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import SparselthError
from ..ops.checks import check_sparsity, check_tensors


def erk_sparsities(parameters: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """Return each layer's sparsity by Erdős–Rényi-Kernel: parameter name -> share in [0, 1).

    A layer's density is proportional to (sum of its weight's dimensions) / (their product), so
    that small layers stay denser. The densities are scaled until `sparsity` is the share pruned of
    all weights together: a layer whose density would exceed 1 stays dense, and the rest is scaled
    anew.
    parameters: weights of at least one dimension, (C_out, C_in / groups, kH, kW) or (out, in).
    sparsity: in [0, 1).

    Raises SparselthError on a sparsity outside [0, 1), a weight without dimensions, or what are no
    weights.

    Reference: Evci et al. 2020, "Rigging the Lottery", arXiv:1911.11134, section 3, after Mocanu et
    al. 2018, arXiv:1707.04780.
    """
    check_tensors("parameters", parameters)
    if scalars := sorted(name for name, tensor in parameters.items() if not tensor.shape):
        raise SparselthError(
            f"ERK goes by the shapes of weights, but {scalars} have no dimension; leave them out"
        )
    size = {name: tensor.numel() for name, tensor in parameters.items()}
    budget = (1 - check_sparsity(sparsity)) * sum(size.values())
    # Of a density scale * dimensions / size, size weights keep scale * dimensions.
    dimensions = {name: sum(tensor.shape) for name, tensor in parameters.items()}
    sparse = {name for name, n in size.items() if n}
    scale = 0.0
    while sparse:
        scale = budget / sum(dimensions[name] for name in sparse)
        full = {name for name in sparse if scale * dimensions[name] > size[name]}
        if not full:
            break
        sparse -= full
        budget -= sum(size[name] for name in full)
    return {
        name: 1 - scale * dimensions[name] / size[name] if name in sparse else 0.0
        for name in parameters
    }
