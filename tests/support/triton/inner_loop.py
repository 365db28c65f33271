"""The loop of a kernel in which the work is done, read from its machine code.

What a multiplication costs beside itself shows there: a warp issues one instruction a cycle, so
instructions for the operations of a turn are what a kernel cannot be faster than, whatever it
loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*)")
_LABEL = re.compile(r"^(\.L_x_\w+):")


class InnerLoop(NamedTuple):
    """A turn of the smallest loop with products, as one warp issues it.

    instructions: all.  products: those that multiply.  operations: multiplications and additions
    of the tensor cores or of all 32 lanes.
    """

    instructions: int
    products: int
    operations: int

    @property
    def per_thousand(self) -> float:
        """Instructions of a warp for a thousand operations."""
        return 1000 * self.instructions / self.operations


def inner_loop(listing: str) -> InnerLoop | None:
    """Return the loop of a kernel's listing by nvdisasm that multiplies most, or None.

    Of nested loops the innermost that multiplies; loops in it that only load are counted
    once; of several, that with the fewest instructions an operation.
    """
    return min(_loops(listing), key=lambda loop: loop.per_thousand, default=None)


def _loops(listing: str) -> Iterator[InnerLoop]:
    """Yield the innermost loops that multiply: from a label to a branch back to it."""
    code: list[str] = []
    labels: dict[str, int] = {}
    spans = []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append(found[2])
            target = re.search(r"\((\.L_x_\w+)\)", found[3])
            if found[2].startswith("BRA") and target and target[1] in labels:
                spans.append((labels[target[1]], len(code)))
    counted = {(begin, end): _counted(code[begin:end]) for begin, end in spans}
    able = {span: loop for span, loop in counted.items() if loop.operations}
    for (begin, end), loop in able.items():
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in able):
            yield loop


def _counted(body: list[str]) -> InnerLoop:
    operations = [_operations(name) for name in body]
    return InnerLoop(len(body), sum(n > 0 for n in operations), sum(operations))


def _operations(name: str) -> int:
    """Return the operations of an instruction of one warp."""
    if shape := re.match(r"HMMA\.(16)(8)(8|16)\.", name):
        return 2 * int(shape[1]) * int(shape[2]) * int(shape[3])
    if shape := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)\.", name):  # issued by each of four warps
        return 2 * int(shape[1]) * int(shape[2]) * int(shape[3]) // 4
    return 64 if name.startswith("FFMA") else 0
