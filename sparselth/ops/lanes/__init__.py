"""Activations in lanes: the layout of the CPU kernels, which travels between modules unseen.

layout.py    where a value lies: oneDNN's Abcd16a, images side by side in a register's lanes
value.py     what stands behind a tensor: a buffer, or an expression that is not computed yet
tensor.py    the tensor that users hold, and the way every op takes through it
buffers.py   from any tensor to its buffer
handlers/    the ATen ops that run on buffers, by family
memory.py    the memory of buffers, kept from step to step
convert.py   the way in: `enter_lanes`, and whether it may be taken
"""
