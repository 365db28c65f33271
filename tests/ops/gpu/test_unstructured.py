"""Masks as lists of single weights: the plan holds every kept weight once, where a warp looks."""

import pytest
import torch
from hypothesis import given, settings
from support.strategies import conv_cases

from sparselth.ops.gpu.unstructured import all_passes_fit, find_unstructured, fits_shared_memory


def listed(plan, mask, groups, by_input):
    """Walk a plan as the kernel does; yield (out, in within the group, tap row, tap column, slot,
    position)."""
    outs, ins, height, width = mask.shape
    rows, columns = (ins * groups, outs) if by_input else (outs, ins * groups)
    slots, chunks = -(-rows // 64) * 64, -(-columns // 32)
    row_of_slot = plan[:slots].tolist()
    starts = plan[slots : slots + slots * chunks + 1].tolist()
    codes, positions = plan[slots + slots * chunks + 1 :].view(2, -1).tolist()
    assert starts[0] == 0
    assert starts[-1] == len(codes)
    for group in range(slots // 8):
        for chunk in range(chunks):
            for slot in range(8):
                run = (group * chunks + chunk) * 8 + slot
                for entry in range(starts[run], starts[run + 1]):
                    code = codes[entry]
                    assert code >> 21 == slot
                    row, column = row_of_slot[group * 8 + slot], chunk * 32 + (code & 31)
                    tap = (code >> 5 & 255, code >> 13 & 255)
                    out, channel = (row, column) if not by_input else (column, row)
                    if by_input:
                        tap = (height - 1 - tap[0], width - 1 - tap[1])
                    assert channel // ins == out // (outs // groups)
                    yield out, channel % ins, *tap, group * 8 + slot, positions[entry]


@given(conv_cases())
@settings(max_examples=60)
def test_every_kept_weight_is_listed_once(case):
    _, _, mask, _ = case.tensors()
    flat = torch.arange(mask.numel()).view(mask.shape)
    for by_input, plan in enumerate(find_unstructured(mask, case.groups)):
        found = torch.zeros_like(mask)
        for *index, _, position in listed(plan, mask, case.groups, bool(by_input)):
            assert not found[tuple(index)]
            found[tuple(index)] = True
            assert flat[tuple(index)] == position
        assert torch.equal(found, mask)


def test_rows_with_the_most_weights_come_first_and_equal_ones_in_order():
    mask = torch.zeros(70, 3, 1, 1, dtype=torch.bool)
    mask[5], mask[69, :2], mask[1, 0], mask[3, 2] = True, True, True, True
    slots = {slot: out for out, *_, slot, _ in listed(find_unstructured(mask)[0], mask, 1, False)}
    assert slots == {0: 5, 1: 69, 2: 1, 3: 3}
    assert find_unstructured(mask)[0][70:128].eq(-1).all()


@pytest.mark.parametrize(
    ("kernel", "dilation", "hw", "there"),
    [
        ((3, 3), (1, 1), (32, 32), True),
        ((3, 3), (1, 1), (1, 1), True),
        ((7, 7), (1, 1), (112, 112), True),
        ((3, 3), (12, 12), (64, 64), False),
        ((300, 1), (1, 1), (400, 4), False),
    ],
)
def test_what_fits_into_shared_memory(kernel, dilation, hw, there):
    conv = ([1, 1], [kernel[0] // 2 * dilation[0], kernel[1] // 2 * dilation[1]], dilation, 1)
    assert all_passes_fit((64, 64, *kernel), hw, conv) == there


def test_a_tile_just_fits():
    # 72 KiB hold 576 pixels of 32 columns; a tile is 31 wider than the kernel reaches.
    assert fits_shared_memory(32, (1, 109), 1, (1, 5), 32)  # 31 + 541
    assert not fits_shared_memory(32, (1, 110), 1, (1, 5), 32)  # 31 + 546
