"""Sparse or dense, per layer and pass: decided from what was measured, or by a fixed table.

decide.py       the decision, `use_choice`, and the cache of what was measured
measure_cpu.py  a layer's passes timed on the CPU
measure_gpu.py  likewise on a GPU, against cuDNN
"""
