"""Plans of masks: remembered until the mask changes, also in compiled programs."""

import pytest
import torch

import sparselth as sl
from sparselth.ops import libraries
from sparselth.ops.plan import conv_plan, forget_plan, plan_of, plannable

NO_HOST = pytest.mark.skipif(
    libraries.host() is None, reason="_host is not there, and builds plans"
)
MASK = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3


@NO_HOST
def test_a_plan_is_remembered_until_its_mask_changes():
    mask = MASK.clone()
    plan = plan_of(mask)
    assert plan_of(mask) is plan
    assert torch.equal(plan, conv_plan(mask))
    mask[0] = True
    assert torch.equal(plan_of(mask), conv_plan(mask))
    other = plan_of(mask)
    forget_plan(mask)
    assert plan_of(mask) is not other
    assert plan_of(torch.ones(2, 2, device="meta") > 0) is None


@NO_HOST
def test_a_flat_mask_has_the_plan_of_one_a_pixel_high():
    flat = MASK[:, :, 0]
    assert torch.equal(conv_plan(flat), conv_plan(flat.unsqueeze(2)))


@NO_HOST
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_program_follows_the_mask(backend):
    mask, weight, x = MASK.clone(), torch.randn(8, 4, 3, 3), torch.randn(2, 4, 6, 6)

    @torch.compile(fullgraph=True, backend=backend)
    def run(x, mask):
        plan = torch.ops.sparselth.mask_plan(mask, 1)
        return sl.ops.masked_conv2d(x, weight, mask, plan=plan) * 2

    for _ in range(3):
        want = 2 * torch.nn.functional.conv2d(x, weight * mask)
        torch.testing.assert_close(run(x, mask), want)
        mask.copy_(torch.rand(mask.shape) < 0.5)


@pytest.mark.parametrize(
    ("mask", "groups"), [(MASK.float(), 1), (MASK[0, 0, 0], 1), (MASK, 0), (MASK, 3)]
)
def test_what_has_no_plan_is_refused_twice(mask, groups):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="mask_plan takes a bool mask"):
            torch.ops.sparselth.mask_plan(mask, groups)


@NO_HOST
def test_a_program_gets_a_copy_to_write_to():
    mask = MASK.clone()
    torch.ops.sparselth.mask_plan(mask, 1).zero_()
    assert torch.equal(plan_of(mask), conv_plan(mask))


@NO_HOST
@pytest.mark.parametrize(
    ("shape", "groups", "fits"),
    [
        ((1, 1, 1, 4095), 1, True),
        ((1, 1, 64, 64), 1, False),
        ((1, (1 << 19) - 1), 1, True),
        ((1, 1 << 19), 1, False),
        ((1 << 19, 1), 1, False),
        ((8, 1 << 16, 1, 1), 8, False),
    ],
)
def test_what_is_too_large_for_a_plan_has_none(shape, groups, fits):
    mask = torch.zeros(shape, dtype=torch.bool)
    assert plannable(shape, groups) is fits
    assert (conv_plan(mask, groups) is not None) is fits
    if not fits:
        four = mask.numpy() if mask.dim() == 4 else mask.numpy()[:, :, None, None]
        with pytest.raises(RuntimeError, match="too large for a plan"):
            libraries.host().conv_plan(four, groups)


def test_a_program_is_told_what_no_mask_is():
    with pytest.raises(sl.SparselthError, match="mask_plan takes a bool mask, got None"):
        torch.ops.sparselth.mask_plan(None, 1)


@pytest.mark.skipif(conv_plan(torch.ones(4, 4).bool()) is None, reason="needs what builds plans")
def test_the_plan_of_an_inference_mask():
    mask = torch.rand(4, 4, 3, 3) < 0.5
    with torch.inference_mode():
        copy = mask.clone()
    want = torch.ops.sparselth.mask_plan(mask, 1)
    assert torch.equal(torch.ops.sparselth.mask_plan(copy, 1), want)
    with torch.inference_mode():
        copy.fill_(True)
    assert not torch.equal(torch.ops.sparselth.mask_plan(copy, 1), want), "it is no old one"
