"""The ops that run on lanes, by ATen overload. See `tensor.py`.

Handlers run below autograd and return what the ATen op would, or NotImplemented to leave the op
to the fallback. Fusion is laziness: a batch norm and an addition only note what is to be computed
(`AffineSum`), so that the ReLU after them computes all of it in one pass; a ReLU's backward notes
its gate (`MaskedGrad`), and a batch norm's backward or the addition of another branch's gradient
takes the gate along.
"""

from . import conv, norm, pointwise, pool, sharing

__all__ = ["conv", "norm", "pointwise", "pool", "sharing"]
