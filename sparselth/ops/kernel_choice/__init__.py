"""Sparse or dense, per layer and pass: decided from what was measured, or by a fixed table.

decide.py       the decision, and `use_choice`
known.py        what was measured, kept for all layers like it
measure_cpu.py  a layer's passes timed on the CPU
measure_gpu.py  likewise on a GPU, against cuDNN
"""
