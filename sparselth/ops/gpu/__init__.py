"""Masked convolutions on a GPU: kernels as objects of one protocol, and which serves a mask.

kernel.py          what a kernel is to whoever chooses: `ConvKernel`
rates.py           how fast each is expected to run, or was measured to
blocks.py          the block-sparse kernels of `sparselth.kernels` (Triton, tensor cores)
tma_blocks.py      the same in 16 bits at stride 1, the pixels copied by the hardware (Triton, TMA)
packing.py         weights packed once a step, for two passes
compaction.py      the same kernels where whole filters or channels are gone, wherever these lie
unstructured.py    CUDA C++: single weights, for scattered masks at high sparsity
halo_blocks.py     CUDA C++: blocks of 32 x 32 on tensor cores, in 16 bits, each pixel fetched once
column_vector.py   CUDA C++: vectors of 16 or 8 weights on tensor cores, in 16 bits
candidates.py      the list of them, and the one that should take least time for a mask
conv.py            the ops of the contract by whichever is chosen
launchers.py       which launcher serves an op's CUDA tensors, and its registration

To add a kernel: a file with a `ConvKernel`, and its name in the list of `candidates.py`.
"""
