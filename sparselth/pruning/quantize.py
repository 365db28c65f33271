"""Quantization as a projection: weights to equally spaced levels, in the same ADMM as pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_mapping, check_whole
from ..errors import SparselthError
from ..ops.checks import MASKS, check_finite, check_mask

# The search for the interval looks at this many values at most, before all of them refine it.
_SAMPLE = 4096
_STARTS = 64
_ROUNDS = 50


@dataclass(frozen=True)
class Levels:
    """The weights whose values are +-q, +-2q, ..., +-2^(bits-1) q, with one interval q per tensor.

    Zero is not among the levels: pruned weights are excluded, by masks, and stay zero.
    bits: of a weight, in [1, 8].  masks: parameter name -> bool mask of what is quantized; None
    quantizes everything.
    The projection is the nearest such point, q chosen by least squares: rounding to the levels of
    the best of many intervals, then the interval that fits this rounding best, in turn until
    nothing changes.

    Raises SparselthError on bits that are no whole number in [1, 8], or masks that are no mapping.

    Reference: Ren et al. 2019, "ADMM-NN", arXiv:1812.11677, section 3.2.
    """

    bits: int = 4
    masks: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        check_whole("bits of a quantized weight", self.bits, 1, 8)
        if self.masks is not None:
            check_mapping("masks", self.masks, MASKS)

    def support(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is quantized of each weight: bool masks, all True without `masks`.

        weights: parameter name -> tensor.

        Raises SparselthError when a mask is missing or does not fit.
        """
        if self.masks is None:
            return [torch.ones_like(w, dtype=torch.bool) for w in weights.values()]
        missing = sorted(set(weights) - set(self.masks))
        if missing:
            raise SparselthError(f"Levels has masks, but none for {missing}")
        for name, weight in weights.items():
            check_mask(self.masks[name], weight, f"the mask of {name}")
        return [self.masks[name] for name in weights]

    def nearest(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return each weight at its nearest levels, zero where its mask is False.

        weights: parameter name -> tensor; the result is new tensors of their shapes and dtypes.

        Raises SparselthError on NaN or Inf, naming the weight.
        """
        check_finite(list(weights), list(weights.values()))
        return [
            self._rounded(w, mask)
            for w, mask in zip(weights.values(), self.support(weights), strict=True)
        ]

    def project_(
        self, weights: Mapping[str, Tensor], z: Sequence[Tensor], u: Sequence[Tensor]
    ) -> Tensor:
        """Do Z <- Proj(W + U), U <- W + U - Z in place; excluded weights have Z = U = 0.

        weights: parameter name -> tensor.  z, u: a tensor of each, of its shape, overwritten.
        Returns float64 (len(weights), 2): per tensor |W - Z|^2 and |Z_new - Z_old|^2 over what is
        quantized.
        Raises SparselthError on NaN or Inf in W + U; nothing is written then.
        """
        sums = {n: w + dual for (n, w), dual in zip(weights.items(), u, strict=True)}
        nearest = self.nearest(sums)
        masks = self.support(weights)
        rows = []
        for w, v, new, mask, z_l, u_l in zip(
            weights.values(), sums.values(), nearest, masks, z, u, strict=True
        ):
            primal, change = ((a.double() - new)[mask].square().sum() for a in (w, z_l))
            rows.append(torch.stack((primal, change)))
            z_l.copy_(new)
            u_l.copy_(torch.where(mask, v - new, 0))
        return torch.stack(rows)

    def _rounded(self, weight: Tensor, mask: Tensor) -> Tensor:
        magnitudes = weight[mask].abs().double()
        interval = best_interval(magnitudes, 2 ** (self.bits - 1))
        levels = _levels(magnitudes, interval, 2 ** (self.bits - 1))
        result = torch.zeros_like(weight)
        result[mask] = (levels * interval).to(weight.dtype) * weight[mask].sign()
        return result


def best_interval(magnitudes: Tensor, count: int) -> Tensor:
    """Return the q of the least |m - q round(m / q)|^2, levels in 1..count. float64 scalar.

    magnitudes: float64 (n,), >= 0.
    """
    largest = magnitudes.max() if magnitudes.numel() else magnitudes.new_zeros(())
    if largest == 0:
        return magnitudes.new_zeros(())
    sample = magnitudes[:: -(-magnitudes.numel() // _SAMPLE)]
    # From clipping nearly everything to using only the lowest levels.
    shares = torch.linspace(0.02, 1.5, _STARTS, dtype=torch.float64, device="cpu")
    starts = largest / count * shares.to(sample)
    starts = _refined(sample, starts[:, None], count)
    errors = (sample - _levels(sample, starts, count) * starts).square().sum(-1)
    return _refined(magnitudes, starts[errors.argmin()], count)[0]


def _levels(magnitudes: Tensor, interval: Tensor, count: int) -> Tensor:
    if not interval.any():
        return torch.zeros_like(magnitudes)
    return (magnitudes / interval).round().clamp(1, count)


def _refined(magnitudes: Tensor, interval: Tensor, count: int) -> Tensor:
    """Fit the interval to the rounding and round again, until nothing changes."""
    for _ in range(_ROUNDS):
        levels = _levels(magnitudes, interval, count)
        fitted = (magnitudes * levels).sum(-1, True) / levels.square().sum(-1, True)
        if torch.equal(fitted, interval):
            break
        interval = fitted
    return interval
