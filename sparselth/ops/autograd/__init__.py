"""The derivatives of the ops: formulas in ops again, in Python.

y = conv(x, w) is linear in x and in w, so its three ops are closed under differentiation: the
derivatives of grad_input and grad_weight are again masked_conv2d, grad_input and grad_weight.
Double backward (Hessian-vector products) follows without another kernel.
"""

from . import conv, linear

__all__ = ["conv", "linear"]
