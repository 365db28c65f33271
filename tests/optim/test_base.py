"""What the optimizers share: parameters without a mask are left to torch's own step."""

import pytest
import torch
from torch import nn

import sparselth as sl


@pytest.mark.parametrize("kind", [sl.optim.SGD, sl.optim.AdamW])
@pytest.mark.parametrize("foreach", [None, False, True])
def test_unmasked_parameters_are_updated_in_lists(kind, foreach, monkeypatch):
    """By the same bits, and the group says afterwards what it said before."""
    plain = kind.__mro__[2]
    seen, results = [], []
    step = plain.step.__wrapped__ if hasattr(plain.step, "__wrapped__") else plain.step

    def noted(self, closure=None):
        seen.append([group["foreach"] for group in self.param_groups])
        return step(self, closure)

    for build in (plain, kind):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(n)) for n in (1, 16, 40)]
        options = {"lr": 0.1, "weight_decay": 0.1, "foreach": foreach if build is kind else False}
        optimizer = build(parameters, **options)
        if build is kind:
            monkeypatch.setattr(plain, "step", noted)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        assert optimizer.param_groups[0]["foreach"] is options["foreach"]
        results.append(parameters)
    assert seen == [[foreach is not False]] * 3
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_decision_outlives_a_step_that_fails(monkeypatch):
    def fails(self, closure=None):
        raise ArithmeticError

    monkeypatch.setattr(torch.optim.SGD, "step", fails)
    weight = nn.Parameter(torch.ones(3))
    optimizer = sl.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones(3)
    with pytest.raises(ArithmeticError):
        optimizer.step()
    assert optimizer.param_groups[0]["foreach"] is None


def test_a_rate_that_is_a_tensor_keeps_torchs_own_choice():
    weight = nn.Parameter(torch.ones(3))
    optimizer = sl.optim.AdamW([weight], lr=torch.tensor(0.1))
    weight.grad = torch.ones(3)
    optimizer.step()
    assert weight[0] < 1


def test_large_parameters_are_updated_one_by_one(monkeypatch):
    """Lists hold intermediate results of all of them, as torch's own choice on a CPU does not."""
    seen = []
    step = torch.optim.SGD.step

    def noted(self, closure=None):
        seen.append(self.param_groups[0]["foreach"])
        return step.__wrapped__(self, closure)

    large, small = nn.Parameter(torch.ones((1 << 20) + 1)), nn.Parameter(torch.ones(3))
    optimizer = sl.optim.SGD([large, small], lr=0.1)
    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    for parameters in ((large, small), (small,)):
        large.grad = None
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert seen == [None, True]
