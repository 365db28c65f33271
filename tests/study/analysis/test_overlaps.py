"""Overlaps between the networks of a study: of which weights, and their spread by chance."""

import pytest
import torch

import sparselth
from sparselth.pruning import find_masks
from sparselth.study import Cell
from sparselth.study.analysis.overlaps import AGAINST_THETA_T, DENSE_PAIR, overlap_rows
from sparselth.study.plan.percentages import PERCENTAGES


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.8])
def test_only_weights_that_are_there_are_compared_with_a_dense_network(allocation, sparsity):
    torch.manual_seed(0)
    model = sparselth.models.build("resnet20", 10, 1, 0.25)
    with torch.no_grad():  # so that layers differ under a global threshold, too
        for i, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + 0.02 * i)
    masks = find_masks(model, sparsity=sparsity, allocation=allocation)
    dense = {name: model.get_parameter(name).detach() for name in masks}
    networks = {"theta_T": dense, "(theta_T*m)_T": {n: w * masks[n] for n, w in dense.items()}}
    cell = Cell("resnet20", "mnist5k", 0.1, 0)
    found = list(overlap_rows(cell, networks, (AGAINST_THETA_T,), kept=masks))
    assert all(row["overlap"] == 1.0 for row, _ in found)  # magnitude masks keep the largest
    assert all(layer["overlap"] == 1.0 for _, layers in found for layer in layers)
    if allocation == "uniform":
        assert [row["p"] for row, _ in found] == [p for p in PERCENTAGES if p < 1 - sparsity - 1e-9]


def test_each_layer_has_its_own_spread_by_chance():
    weights = {"a": torch.randn(40, 10), "b": torch.randn(10, 10)}
    masks = {"a": torch.ones(40, 10, dtype=torch.bool), "b": torch.eye(10, dtype=torch.bool)}
    networks = {"theta_0": weights, "theta_T": weights}
    cell = Cell("resnet20", "mnist5k", 0.1, 0)
    for kept, sizes in ((None, (400, 100)), (masks, (400, 10))):
        for row, layers in overlap_rows(cell, networks, (DENSE_PAIR,), kept):
            p = row["p"]
            assert [layer["chance_sd"] for layer in layers] == pytest.approx(
                [(1 - p) / size**0.5 for size in sizes]
            )
            assert row["chance_sd"] == pytest.approx((1 - p) / sum(sizes) ** 0.5)
