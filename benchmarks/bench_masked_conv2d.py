"""masked_conv2d against the alternatives, of which `sparselth.bench.conv` says what they are."""

from __future__ import annotations

import warnings

import pytest
import sparseprop_baseline

from sparselth.bench.conv import RATIOS, auto_steps, both_layouts, candidates
from sparselth.bench.layers import AUTO_SPARSITIES, LAYERS, SPARSITIES, conv_problem
from sparselth.bench.ratios import Ratio

SPARSEPROP = Ratio("SparseProp", ("SparseProp over batch", "SparseProp over width"))


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def bench_masked_conv2d(compare, layer, sparsity):
    problem = conv_problem(layer, sparsity)
    theirs, reason = sparseprop_baseline.candidates(problem)
    if reason:
        warnings.warn(f"SparseProp is left out: {reason}", stacklevel=1)
    compare(
        {**candidates(problem), **theirs},
        *RATIOS,
        SPARSEPROP,
        op="masked_conv2d",
        problem=str(layer),
        sparsity=sparsity,
        left_out={"SparseProp": reason} if reason else {},
    )


@pytest.mark.parametrize("sparsity", AUTO_SPARSITIES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def bench_masked_conv2d_auto(compare, layer, sparsity):
    problem = conv_problem(layer, sparsity)
    compare(
        auto_steps(problem),
        Ratio("best dense fp32", both_layouts("dense"), ours=both_layouts("auto")),
        op="MaskedConv2d, which chooses between sparse and dense",
        problem=str(layer),
        sparsity=sparsity,
    )
