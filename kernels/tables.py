"""Lists of tensors in one launch: a table on the device says where they are.

A kernel over a list sees no tensors but one int64 array of columns, `segments` words each, a
segment being one tensor of the list:

    FIRST   number of its first chunk; chunks are numbered through all segments in list order
    COUNT   how many items it has: entries, or groups of a pattern
    ...     what the op needs: addresses, extents; the columns are named in the op's file

A chunk is `tiles` times BLOCK items of one segment, the work of one program. The number of launches
does not grow with the list, but for the table's own: its words travel as kernel arguments, 256 a
launch. Nothing is copied from host memory, so nothing waits and a CUDA graph may hold it all. A
table like one of the last 16 is not written again: an optimizer's step finds its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

FLOATS = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}

# --- launch table ---------------------------------------------------------------------------

WORDS = tl.constexpr(256)  # 2 of the 4 KiB that a kernel's arguments may take

# Enough chunks to fill the largest GPU; beyond that, chunks grow.
MOST_CHUNKS = 2048

# --- device code ----------------------------------------------------------------------------

FIRST = tl.constexpr(0)
COUNT = tl.constexpr(1)


@triton.jit(do_not_specialize=["first"])
def write_words(table, first, words):
    for i in tl.static_range(WORDS):
        tl.store(table + first + i, (words[i] >> 1) - (1 << 61))  # undoes `_as_argument`


@triton.jit
def word(table, segments, column, segment):
    return tl.load(table + column * segments + segment)


@triton.jit
def find_chunk(table, segments, tiles, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr):
    """Return this program's segment, where in it its chunk begins, and how many items that has."""
    chunk = tl.program_id(0)
    index = tl.arange(0, SEGMENTS)
    firsts = tl.load(table + FIRST * segments + index, index < segments, other=1 << 40)
    segment = tl.sum((firsts <= chunk).to(tl.int32)) - 1  # empty segments start where the next does
    begin = (chunk - word(table, segments, FIRST, segment)) * tiles * BLOCK
    left = word(table, segments, COUNT, segment) - begin
    return segment, begin, tl.minimum(left, tiles * BLOCK).to(tl.int32)


@triton.jit
def pointer(table, segments, column, segment, DTYPE: tl.constexpr):
    return word(table, segments, column, segment).to(tl.pointer_type(DTYPE))


@triton.jit
def wide(values):
    """Return values in the type that arithmetic is done in."""
    return values if values.dtype == tl.float64 else values.to(tl.float32)


# --- launcher -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table on the device, and the grid that walks it."""

    words: Tensor
    segments: int
    chunks: int
    tiles: int
    block: int

    @property
    def arguments(self) -> tuple[Tensor, int, int]:
        """What every kernel takes first: table, segments, tiles."""
        return self.words, self.segments, self.tiles

    @property
    def constants(self) -> dict[str, int]:
        """What every kernel is compiled for: BLOCK, and SEGMENTS, a vector with a lane for each."""
        return {"BLOCK": self.block, "SEGMENTS": triton.next_power_of_2(self.segments)}


def make_table(
    counts: Sequence[int],
    columns: Sequence[Sequence[int]],
    *,
    block: int,
    device: torch.device,
    tiles: int | None = None,
    tail: Sequence[int] = (),
) -> Table:
    """Return the table of these columns, after FIRST and COUNT, with `tail` behind them.

    tiles: blocks per chunk, chosen by the number of items when None.
    """
    tiles = tiles or tiles_per_chunk(sum(counts), block)
    chunks = [-(-count // (tiles * block)) for count in counts]
    firsts = [0, *accumulate(chunks)]
    words = [*firsts[:-1], *counts, *(word for column in columns for word in column), *tail]
    return Table(_on_device(words, device), len(counts), firsts[-1], tiles, block)


def tiles_per_chunk(items: int, block: int) -> int:
    """Return how many blocks of items a program takes."""
    return triton.next_power_of_2(max(1, -(-items // (block * MOST_CHUNKS))))


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Return the column of these tensors' addresses."""
    return [tensor.data_ptr() for tensor in tensors]


def pieces(memory: Tensor, counts: Sequence[int]) -> list[int]:
    """Return the column of addresses that splits one tensor into `counts` elements each."""
    starts = [0, *accumulate(counts)][:-1]
    return [memory.data_ptr() + start * memory.element_size() for start in starts]


def guard(device: torch.device) -> AbstractContextManager:
    """Return the context in which kernels run on this device; the interpreter's is the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def write_back(tensors: Sequence[Tensor], used: Sequence[Tensor]) -> None:
    """Copy results to the tensors for which `used` holds contiguous copies."""
    for tensor, copy in zip(tensors, used, strict=True):
        if copy is not tensor:
            tensor.copy_(copy)


def _on_device(words: list[int], device: torch.device) -> Tensor:
    if device.type != "cuda":
        return _written(tuple(words), device, 0)
    if torch.cuda.is_current_stream_capturing():
        # Into the graph's own memory, and again with every replay.
        return _written.__wrapped__(tuple(words), device, 0)
    return _written(tuple(words), device, torch.cuda.current_stream(device).cuda_stream)


@lru_cache(maxsize=16)
def _written(words: tuple[int, ...], device: torch.device, stream: int) -> Tensor:
    """Return the words in an int64 tensor; `stream`, which writes it, also is all that reads it."""
    size = WORDS.value
    table = torch.empty(-(-len(words) // size) * size, dtype=torch.int64, device=device)
    padded = [*map(_as_argument, words), *[_as_argument(0)] * (len(table) - len(words))]
    for first in range(0, len(table), size):
        write_words[(1,)](table, first, tuple(padded[first : first + size]), num_warps=1)
    return table


def _as_argument(word: int) -> int:
    """Return the word, of less than 60 bits, as an odd number of 63 bits.

    Triton compiles anew for each pattern of small, even and round numbers among the elements of a
    tuple; these all look alike.
    """
    return 2 * word + 1 + (1 << 62)
