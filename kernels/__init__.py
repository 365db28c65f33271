"""Triton kernels, one file per op. Installed as `sparselth.kernels`."""

if __name__ == "kernels":
    # With the repository root on the path, `import kernels` would find this folder instead of
    # the Hugging Face package of that name.
    raise ImportError("import sparselth.kernels, not kernels: run pip install -e . first")
