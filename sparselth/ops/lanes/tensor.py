"""A tensor whose values stay in the layout of the kernels between accelerated modules.

To its user a `LaneTensor` is an (N, C, H, W) tensor on the CPU. Below autograd, ops that have a
handler (`handlers/`) run on lanes; every other op runs on a plain tensor and returns
plain tensors. No op is wrong for lack of a handler, only slower.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from . import exits
from .handling import HANDLERS, TAKES, aliasing_of
from .value import LaneBuffer, LazyValue, Positions, State

_aten = torch.ops.aten

# Ops that ask one argument for its shape and dtype alone, and the place of that argument.
_SHAPE_ONLY = {
    getattr(_aten, name).default: place
    for place, names in enumerate(
        (
            "empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros "
            "new_ones new_full new_empty_strided",
            "avg_pool2d_backward _adaptive_avg_pool2d_backward",
        )
    )
    for name in names.split()
}


class LaneTensor(torch.Tensor):
    """An activation or gradient (N, C, H, W) in lanes; or the indices of a pooling over it.

    float32 or float64 (indices: int64), on the CPU. Its strides say contiguous, whatever lies in
    memory. Every op of torch takes it, those without a handler by way of a plain tensor. It turns
    plain for good by views, writes, `numpy()` and `data_ptr()`; copies, pickles and torch.compile
    get plain tensors. Its `untyped_storage()` has a size and no memory: C++ that reads memory
    without asking the dispatcher needs `dense()`.
    """

    _value: LazyValue

    # Subclasses of results are decided below, in __torch_dispatch__.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def make(
        value: LazyValue,
        shape: tuple[int, ...] | torch.Size,
        dtype: torch.dtype,
        strides: tuple[int, ...] | None = None,
    ) -> LaneTensor:
        """Make a tensor of the values in `value`; its strides are contiguous when None."""
        out = torch.Tensor._make_wrapper_subclass(LaneTensor, shape, strides, dtype=dtype)
        out._value = value
        return out

    @staticmethod
    def hold(plain: Tensor) -> LaneTensor:
        """Make a tensor of values that are plain for good."""
        value = LazyValue(plain, plain.shape[0] if plain.dim() else 1)
        return LaneTensor.make(value, plain.shape, plain.dtype, plain.stride())

    @staticmethod
    def wrap(buffer: Tensor, batch: int, halo: int) -> LaneTensor:
        """Make a tensor (batch, C, H, W) of values in lanes."""
        return LaneTensor.of(LaneBuffer(buffer, halo), batch)

    @staticmethod
    def of(buffer: LaneBuffer, batch: int) -> LaneTensor:
        """Make a tensor (batch, C, H, W) of a buffer, with what is known of it."""
        return LaneTensor.make(
            LazyValue(buffer, batch), (batch, *buffer.image_shape()), buffer.data.dtype
        )

    def like(self, state: State) -> LaneTensor:
        """Make a tensor of this one's shape and dtype with values of its own."""
        return LaneTensor.make(LazyValue(state, self._value.batch), self.shape, self.dtype)

    def alias(self) -> LaneTensor:
        """Make a tensor that shares this one's values."""
        return LaneTensor.make(self._value, self.shape, self.dtype, self.stride())

    def dense(self) -> Tensor:
        """Return a plain tensor (N, C, H, W) with the same values, differentiably.

        It shares no memory with this one, and is contiguous where this one is in lanes. For code
        that must not meet the subclass.
        """
        tell = exits.listener()
        if tell is not None and in_lanes(self):
            tell(exits.Exit("dense", tuple(self.shape), "plain values are asked for"))
        return _Dense.apply(self)

    def _plain_view(self) -> Tensor:
        # A view op turns the value plain and returns plain tensors.
        return self.view(self.shape)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        # Another subclass among the arguments sees plain tensors of us.
        if handler is not None and all(t is cls for t in types):
            out = handler(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if exits.listener() is not None:
            _tell(func, types, args, kwargs)
        return fallback(func, args, kwargs)

    # What reads memory without asking the dispatcher. The arguments are those of Tensor. Not
    # untyped_storage: torch.compile tells aliases by that of the wrapper.

    def numpy(self, *, force: bool = False) -> Any:
        return self._plain_view().numpy(force=force)

    def tolist(self) -> Any:
        return self._plain_view().tolist()

    def data_ptr(self) -> int:
        return self._plain_view().data_ptr()

    def apply_(self, function: Any) -> Any:
        self._plain_view().apply_(function)
        return self

    def map_(self, tensor: Tensor, function: Any) -> Any:
        self._plain_view().map_(_read(tensor), function)
        return self

    def map2_(self, x: Tensor, y: Tensor, function: Any) -> Any:
        self._plain_view().map2_(_read(x), _read(y), function)
        return self

    def share_memory_(self) -> Any:
        self._value.plain().share_memory_()
        return self

    def storage(self) -> Any:
        return self._plain_view().storage()

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._plain_view().__dlpack__(**kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        with torch.no_grad():
            text = repr(self.dense())
        tail = ", requires_grad=True)" if self.requires_grad else ")"
        return text[:-1] + tail

    def __reduce_ex__(self, proto: Any) -> Any:
        # Saved, it is a plain tensor: files do not depend on this class.
        plain = self._plain_view().detach()
        return plain.requires_grad_(self.requires_grad).__reduce_ex__(proto)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            return super().__deepcopy__(memo)  # raises, as for any tensor
        if id(self) not in memo:
            memo[id(self)] = self.dense().detach().requires_grad_(self.requires_grad)
        return memo[id(self)]

    # torch.compile takes tensor subclasses apart and puts them together again: hand it the plain
    # values, which its kernels want.

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["_plain"], None

    @property
    def _plain(self) -> Tensor:
        return self._value.plain()

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta, outer_size, outer_stride) -> Tensor:
        return LaneTensor.hold(inner["_plain"])

    def _stable_hash_for_caching(self) -> str:
        return f"LaneTensor {self.shape} {self.stride()} {self.dtype} {self.requires_grad}"

    def __coerce_same_metadata_as_tangent__(self, meta, expected_type=None):
        # A compiled backward gets our gradient where it was compiled for a plain one.
        return self._value.read() if expected_type in (None, Tensor) else None


def in_lanes(x: Any) -> TypeGuard[LaneTensor]:
    """Say whether `x` is an activation or gradient in lanes, and has not turned plain."""
    return isinstance(x, LaneTensor) and not isinstance(x._value.state, (Tensor, Positions))


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: LaneTensor) -> Tensor:
        values = x._value.read()
        return values.clone() if values is x._value.state else values

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


# --- every other op ---------------------------------------------------------------------------


def _tell(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell who listens of an op that takes values out of lanes."""
    place, tell = _SHAPE_ONLY.get(func), exits.listener()
    values = [value for i, value in enumerate(args) if i != place]
    left = next(filter(in_lanes, tree_leaves((values, kwargs))), None)
    if left is None or tell is None:
        return
    if func not in HANDLERS:
        why = "no kernel for it runs on lanes"
    elif not all(t is LaneTensor for t in types):
        why = "its other argument is a tensor of another subclass"
    else:
        why = f"on lanes it takes {TAKES[func]} only"
    name = func._schema.name.replace("::", ".")
    tell(exits.Exit(name, tuple(left.shape), why))


def _read(value: Any) -> Any:
    return value._value.read() if isinstance(value, LaneTensor) else value


def fallback(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an op on plain tensors.

    What it writes to or returns views of turns plain for good, so that every alias keeps seeing
    every write.
    """
    place = _SHAPE_ONLY.get(func)
    if place is not None and isinstance(args[place], LaneTensor):
        like = args[place]
        shape = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        args = (*args[:place], shape, *args[place + 1 :])
    aliasing = aliasing_of(func)
    if aliasing.composite:  # taken apart by autograd, but for inference mode
        return func.decompose(*args, **kwargs)
    if aliasing.moves:
        return _move(func, args, kwargs)
    owners: dict[int, LaneTensor] = {}

    def share(value: Any) -> Any:
        if not isinstance(value, LaneTensor):
            return value
        plain = value._value.plain()
        owners[id(plain)] = value
        return plain

    def convert(key: int | str, value: Any) -> Any:
        return tree_map(share if key in aliasing.shared else _read, value)

    out = func(
        *(convert(place, value) for place, value in enumerate(args)),
        **{name: convert(name, value) for name, value in kwargs.items()},
    )
    if not aliasing.written:
        return out
    for owner in owners.values():
        _check_shape(owner)
    return tree_map(lambda value: owners.get(id(value), value), out)


def _check_shape(owner: LaneTensor) -> None:
    plain = owner._value.plain()
    if plain.shape != owner.shape:
        raise RuntimeError(
            f"an out= argument of shape {tuple(owner.shape)} would become {tuple(plain.shape)}: "
            "give one of the result's shape"
        )


def _move(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # unsqueeze_, t_, resize_ and their like: the tensor goes on as an alias with another shape,
    # while what was detached from it keeps the old one.
    owner, *rest = args
    plain = owner._value.plain().detach()
    func(plain, *tree_map(_read, rest), **tree_map(_read, kwargs))
    with torch._C._DisableTorchDispatch():
        func(owner, *tree_map(_read, rest), **tree_map(_read, kwargs))
    owner._value = LazyValue(plain, plain.shape[0] if plain.dim() else 0)
    return owner
