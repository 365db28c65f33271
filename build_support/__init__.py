"""What setup.py needs to build the native libraries: probe, decide, compile, record.

toolchain.py  what is there: compilers, torch, CUDA toolkit
decide.py     what to build, and why not the rest (pure functions)
command.py    setuptools' build_ext, through ninja, and the build record
"""
