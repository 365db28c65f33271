"""How our modules appear to tools that record programs: torch.fx, torch.jit.script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.fx import Proxy

from ..errors import SparselthError


def recorded(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the call of `module` in the graph that torch.fx is tracing; None where it is not.

    A module of ours is one node there, like torch's own layers: how it is served depends on values
    that a trace does not have.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Proxy):
            tracer: Any = value.tracer
            path = tracer.path_of_module(module)
            return tracer.create_proxy("call_module", path, tuple(args), dict(kwargs))
    return None


class NotScriptable(nn.Module):
    """A module that torch.jit.script cannot compile. Mixed into ours."""

    def __prepare_scriptable__(self) -> nn.Module:
        # Called before a whole model is scripted. Returning a plain module here would put it into
        # the model for good.
        raise SparselthError(
            f"torch.jit.script cannot compile a {type(self).__name__}; script a plain copy, "
            "sparselth.densify(copy.deepcopy(model)), or use torch.export, which takes the model "
            "as it is"
        )
