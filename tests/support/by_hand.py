"""Cells of one small study, and their trainings written out by hand."""

import torch

import sparselth as sl
from sparselth import models
from sparselth.study import Cell
from sparselth.training import train

CPU = torch.device("cpu")
RATE, SPARSITY = 0.05, 0.4
DENSE = Cell("resnet20", "mnist5k", RATE, 0)


def cell(protocol, generator="magnitude", sparsity=SPARSITY, seed=0):
    return Cell("resnet20", "mnist5k", RATE, seed, generator, sparsity, protocol)


def network(weights, **options):
    model = models.build("resnet20", num_classes=10, in_channels=1, width=0.125)
    model.load_state_dict(weights)
    return model


def trained(model, digits, recipe, masks=None):
    """Train by hand and return the weights, those pruned as zeros."""
    train(model, digits, recipe, masks=masks)
    return {name: tensor.clone() for name, tensor in sl.densify(model).state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )
