"""Triton kernels, one file per op. Installed as `sparselth.kernels`."""

if __name__ == "kernels":
    # With the repository root on the path, `import kernels` finds this folder, and so do libraries
    # that ask whether the Hugging Face package of that name is there. Give them that one, or what
    # looks to them as if there were none: a module without a file and without anything in it.
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    _root = Path(__file__).resolve().parent.parent
    _elsewhere = [path for path in sys.path if Path(path).resolve() != _root]
    _spec = PathFinder.find_spec(__name__, _elsewhere)
    if _spec is not None and _spec.loader is not None:
        sys.modules[__name__] = module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[__name__])
    __file__, __path__ = None, []

    def __getattr__(name: str):
        kind = AttributeError if name.startswith("__") else ImportError
        raise kind(f"no {name} here: import sparselth.kernels, not kernels")
