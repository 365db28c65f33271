"""Which parameters can have a mask: the one predicate of `find_masks`, ADMM and `sparsify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ..ops.parameter_masks import bound_to, is_sharded
from .classes import class_of, masked_subclass
from .dense import MaskedAttention, MaskedDense
from .masked import MaskedConv1d, MaskedConv2d, MaskedLinear
from .module import MaskedModule
from .stem import StemConv2d


@dataclass(frozen=True)
class Kind:
    """How a class of layers is masked.

    plain: the class; subclasses that keep its forward are masked alike.  base: the masked class, or
    what is mixed into one.  transposed: weights are (in, out, ...), so patterns see them turned.
    by_default: whether `find_masks` prunes it without being asked.
    """

    plain: type[nn.Module]
    base: type[MaskedModule]
    transposed: bool = False
    by_default: bool = True


KINDS = (
    Kind(nn.Conv2d, MaskedConv2d),
    Kind(nn.Linear, MaskedLinear),
    Kind(nn.Conv1d, MaskedConv1d),
    Kind(nn.Conv3d, MaskedDense),
    Kind(nn.ConvTranspose1d, MaskedDense, transposed=True),
    Kind(nn.ConvTranspose2d, MaskedDense, transposed=True),
    Kind(nn.ConvTranspose3d, MaskedDense, transposed=True),
    Kind(nn.MultiheadAttention, MaskedAttention),
    Kind(nn.Embedding, MaskedDense, by_default=False),
    Kind(nn.EmbeddingBag, MaskedDense, by_default=False),
)

# Linear layers of GPT-2 and its like, weights (in, out). By name: transformers is optional.
_HF_CONV1D = ("transformers.pytorch_utils", "Conv1D")

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Site:
    """A place for a mask: a parameter of a module of a maskable kind.

    name: as in `model.named_parameters()`.  local: its name within `module`.  kind: how layers like
    that are masked.  refusal: why it cannot have a mask, and what to do about it; empty when it
    can.
    """

    name: str
    local: str
    module: nn.Module
    kind: Kind
    refusal: str = ""

    @property
    def slot(self) -> nn.Parameter:
        """The parameter itself, whatever was written to it: for its shape, or as a key."""
        parameter = self.module._parameters[self.local]
        assert parameter is not None
        return parameter

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter with its values as they are now: zero off its mask, where it has one.

        Costs a pass over the weight of a masked module, as reading its attribute does.
        """
        if isinstance(self.module, MaskedModule):
            self.module.clean(self.local)
        return self.slot


def kind_of(module: nn.Module) -> Kind | None:
    """Return the kind of a module, masked or plain; None where masks do not go."""
    for kind in KINDS:
        if isinstance(module, kind.plain):
            return kind
    for base in type(module).__mro__:
        if (base.__module__, base.__name__) == _HF_CONV1D:
            return Kind(base, MaskedDense, transposed=True)
    return None


def sites_of(model: nn.Module) -> dict[str, Site]:
    """Return every place for a mask by parameter name, in model order, also those refused.

    model: plain or made sparse.  A parameter that several modules share is there once, under its
    first name.
    """
    found: dict[str, Site] = {}
    seen: set[int] = set()
    adapters, owners = adapters_of(model), owners_of(model)
    for path, module in model.named_modules():
        kind = kind_of(module)
        if kind is None or module in adapters:
            continue
        refusal = _refusal(module, kind)
        for local in kind.base.maskable:
            name = f"{path}.{local}" if path else local
            parameter = module._parameters.get(local)
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                why = refusal or _unfit(parameter) or _shared(owners[id(parameter)])
                found[name] = Site(name, local, module, kind, why)
            elif parameter is None and refusal and _is_derived(module, local):
                found[name] = Site(name, local, module, kind, refusal)
    return found


def owners_of(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Return who has each parameter: its id -> (full name, module, local name) of every owner.

    A module that is used several times is there under each of its names.
    """
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for local, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{local}" if path else local
                owners.setdefault(id(parameter), []).append((name, module, local))
    return owners


def site_names(model: nn.Module, sites: Mapping[str, Site]) -> dict[str, str]:
    """Return the place that each name of its parameter stands for: a shared weight has several."""
    found = {name: name for name in sites}
    for several in owners_of(model).values():
        names = [name for name, _, _ in several]
        site = next((name for name in names if name in sites), None)
        if site is not None:
            found.update(dict.fromkeys(names, site))
    return found


def usual_sites(model: nn.Module) -> dict[str, Site]:
    """Return the places that masks go on by default: those whose weight a layer of such a kind has,
    be it shared with an embedding.
    """
    owners = owners_of(model)

    def usual(site: Site) -> bool:
        having = owners.get(id(site.module._parameters.get(site.local)), [])
        kinds = [site.kind, *(kind_of(module) for _, module, _ in having)]
        return any(kind is not None and kind.by_default for kind in kinds)

    sites = sites_of(model)
    return {name: site for name, site in sites.items() if not site.refusal and usual(site)}


def mask_class(module: nn.Module) -> type[MaskedModule]:
    """Return the class a module has once it is masked.  module: of a kind that is not refused."""
    assert not isinstance(module, MaskedModule), "it has that class already"
    kind = kind_of(module)
    assert kind is not None
    plain = nn.Conv2d if isinstance(module, StemConv2d) else class_of(module)
    if plain is kind.plain and issubclass(kind.base, plain):
        return kind.base
    return masked_subclass(kind.base, plain)


def _refusal(module: nn.Module, kind: Kind) -> str:
    """Say why a module of a kind cannot have masks; empty when it can."""
    if isinstance(module, (MaskedModule, StemConv2d)):
        return ""
    derived = [local for local in kind.base.maskable if _is_derived(module, local)]
    if derived and hasattr(module, f"{derived[0]}_orig") and hasattr(module, f"{derived[0]}_mask"):
        return (
            f"its {derived[0]} is pruned by torch.nn.utils.prune; take the masks over with "
            "sparselth.from_torch_prune(model)"
        )
    if derived:
        by = "torch.nn.utils.parametrize" if parametrize.is_parametrized(module) else "a hook"
        return (
            f"its {derived[0]} is computed before each forward, by {by}, as weight and spectral "
            "norms are; remove that first (torch.nn.utils.parametrize.remove_parametrizations, or "
            "remove_weight_norm and remove_spectral_norm)"
        )
    for method in ("forward", "_conv_forward", "_output_padding"):
        if getattr(type(module), method, None) is not getattr(kind.plain, method, None):
            return (
                f"{type(module).__name__} has a {method} of its own, other than that of torch's "
                f"{kind.plain.__name__}, which may use its weight in any way"
            )
    if getattr(module, "max_norm", None) is not None:
        return "max_norm rewrites its weight in each forward"
    if getattr(module, "sparse", False):
        return "its gradients are sparse tensors; use sparse=False"
    return ""


def _unfit(parameter: Tensor) -> str:
    if is_lazy(parameter):
        return "it has no shape before the model's first forward"
    if not parameter.is_floating_point():
        return f"masks go on real floating-point weights, not on {parameter.dtype}"
    if is_sharded(parameter) and bound_to(parameter) is None:
        return "it is sharded; call sparselth.sparsify before fully_shard"
    return ""


def _shared(owners: list[tuple[str, nn.Module, str]]) -> str:
    """Say whose else a parameter is that would not keep to the mask; empty when nobody's."""
    for name, module, local in owners:
        kind = kind_of(module)
        if kind is None or local not in kind.base.maskable:
            why = f"it is a {type(module).__name__}"
        else:
            why = _refusal(module, kind)
        if why:
            return f"it is also {name!r}, whose module cannot have a mask: {why}"
    return ""


def _is_derived(module: nn.Module, local: str) -> bool:
    """Say whether a parameter's place is taken by what others compute for it."""
    if parametrize.is_parametrized(module, local):
        return True
    return local not in module._parameters and isinstance(module.__dict__.get(local), Tensor)


def adapters_of(model: nn.Module) -> set[nn.Module]:
    """Return the small trained matrices beside a layer, as peft adds them: no layers to prune."""
    found: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            for name in getattr(module, "adapter_layer_names", ()):
                beside = getattr(module, name, None)
                if isinstance(beside, nn.Module):
                    found.update(beside.modules())
    return found


def masked_modules(model: nn.Module) -> Iterator[tuple[str, MaskedModule]]:
    """Yield the modules that have masks with their names.

    Not those of a masked class without any: adapters are made by calling the class of a layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, MaskedModule) and module._states:
            yield name, module
