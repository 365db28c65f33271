"""Networks of the user's own, by the name of the function that makes them: `module:function`."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import SparselthError

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def is_factory(name: str) -> bool:
    """Tell whether a name has the form `module:function`, as in "mypackage.nets:make"."""
    return _FORM.fullmatch(name) is not None


def find(name: str) -> Callable[..., Any]:
    """Import the module of a `module:function` and return the function, or the class.

    The current folder is searched first, as `python -m` does, and stays on `sys.path`, so that the
    module can import its neighbors later.

    Raises SparselthError when the module cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()  # the file may be newer than what was listed of its folder
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # The user's own code runs here, and may raise anything.
        raise SparselthError(
            f"model '{name}': the module {module_name} cannot be imported ({_said(error)}); the "
            f"current folder, {folder}, and the installed packages were searched"
        ) from error
    where = getattr(module, "__file__", None) or module_name
    if not hasattr(module, function_name):
        raise SparselthError(
            f"model '{name}': {where} has no {function_name}; define a function of that name which "
            "returns the network"
        )
    function = getattr(module, function_name)
    if not callable(function):
        raise SparselthError(
            f"model '{name}': {function_name} in {where} is of type {type(function).__name__}, "
            "expected a function that returns the network"
        )
    return function


def build(name: str, num_classes: int, in_channels: int, width: float) -> nn.Module:
    """Call a `module:function` with those of the three keywords that its signature takes.

    What it does not take is its own to decide, but a width other than 1.0 must be taken. Through
    `**kwargs` only `num_classes` is passed, on whose name torchvision and others agree.

    Raises SparselthError when it cannot be found or called so, or returns no `nn.Module`, or one
    whose weights are not there yet.
    """
    function = find(name)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise SparselthError(
            f"model '{name}': what it takes cannot be read ({error}); wrap it in a function"
        ) from error
    taken = {p.name for p in signature.parameters.values() if p.kind in _KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        taken.add("num_classes")
    if width != 1.0 and "width" not in taken:
        raise SparselthError(
            f"model '{name}' got width={width}, but the function takes no width; give it a keyword "
            "width, or leave width at 1.0"
        )
    offered = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
    keywords = {key: value for key, value in offered.items() if key in taken}
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise SparselthError(
            f"model '{name}': the function takes {signature} ({error}), but of these only "
            f"{', '.join(offered)} are passed, by keyword; give the others a default"
        ) from error
    model = function(**keywords)
    if not isinstance(model, nn.Module):
        raise SparselthError(
            f"model '{name}': the function returned a {type(model).__name__}, expected a "
            "torch.nn.Module"
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise SparselthError(
            f"model '{name}': the function returned lazy layers, whose weights are not there yet; "
            "pass an image through the network before returning it"
        )
    return model


def _said(error: Exception) -> str:
    """Return what an exception says, on one line and with its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
