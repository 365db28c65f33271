"""Which channels go together, and those that stay: whatever a graph may take them for."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import sparselth as sl
from sparselth.pruning.probes import tensors_in

pytest.importorskip("torch_pruning", reason="it finds which channels go together")

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
ROWS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Layers by name, and a forward that is a function of the model and its input."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(inputs, outputs, size=3, groups=1):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups)


def images(run, **layers):
    """Return a model of three convolutions, but for `layers`."""
    return Net(run, **{"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 2, 1), **layers})


def rows(run, **layers):
    """Return a model of three linear layers, but for `layers`."""
    return Net(run, **{"a": nn.Linear(6, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 2), **layers})


def tail(m, x):
    return m.c(F.relu(m.b(x)))


def attention():
    def run(m, x):
        x = m.a(x)
        q, k, v = (layer(x).view(2, 5, 4, 2).transpose(1, 2) for layer in (m.q, m.k, m.v))
        return tail(m, F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 8))

    return rows(run, **{name: nn.Linear(8, 8) for name in "qkv"})


def features_too():
    def run(m, x):
        y = m.a(x)
        return {"features": y, "others": (tail(m, F.relu(y)), None)}

    return images(run)


def shared():
    model = rows(lambda m, x: tail(m, F.relu(m.d(F.relu(m.a(x))))), d=nn.Linear(8, 8))
    model.d.weight = model.b.weight
    return model


def scaled():
    model = rows(lambda m, x: tail(m, m.a(x) * m.scale))
    model.scale = nn.Parameter(torch.randn(8))
    return model


def weight_norm():
    return images(lambda m, x: tail(m, m.a(x)), b=parametrizations.weight_norm(conv(8, 8)))


# What makes a model, its input, the layer whose outputs or inputs cannot leave, and why.
STAY = {
    "attention": (attention, ROWS, "v", "others would be changed"),
    "group norm": (
        lambda: images(lambda m, x: tail(m, m.n(m.a(x))), n=nn.GroupNorm(4, 8)),
        *(IMAGES, "a", "n is a GroupNorm"),
    ),
    "layer norm": (
        lambda: rows(lambda m, x: tail(m, m.n(m.a(x))), n=nn.LayerNorm(8)),
        *(ROWS, "a", "n is a LayerNorm"),
    ),
    "response norm": (
        lambda: images(lambda m, x: tail(m, m.n(m.a(x))), n=nn.LocalResponseNorm(3)),
        *(IMAGES, "a", "others would be changed"),
    ),
    "lstm": (
        lambda: rows(lambda m, x: tail(m, m.n(m.a(x))[0]), n=nn.LSTM(8, 8, batch_first=True)),
        *(ROWS, "a", "n is a LSTM"),
    ),
    "gru": (
        lambda: rows(lambda m, x: tail(m, m.n(m.a(x))[0]), n=nn.GRU(8, 8, batch_first=True)),
        *(ROWS, "a", "torch-pruning cannot follow them"),
    ),
    "softmax over channels": (
        lambda: images(lambda m, x: tail(m, F.softmax(m.a(x), 1))),
        *(IMAGES, "a", "others would be changed"),
    ),
    "features that are outputs": (features_too, IMAGES, "a", "others would be changed"),
    "a layer used twice": (
        lambda: images(lambda m, x: tail(m, F.relu(m.b(F.relu(m.a(x)))))),
        *(IMAGES, "b", "b is called 2 times"),
    ),
    "a shared weight": (shared, ROWS, "b", "weight is also that of another layer"),
    "a weight used by the forward": (
        lambda: rows(lambda m, x: tail(m, m.a(x)) + F.linear(x, m.a.weight).mean(-1, True)),
        *(ROWS, "a", "others would be changed"),
    ),
    "a parameter outside layers": (scaled, ROWS, "a", "a parameter outside a layer"),
    "groups": (
        lambda: images(lambda m, x: tail(m, F.relu(m.a(x))), b=conv(8, 8, groups=2)),
        *(IMAGES, "a", "b convolves them in 2 groups"),
    ),
    "weight norm": (weight_norm, IMAGES, "b", "weight is computed from other parameters"),
    "added to the input": (
        lambda: images(lambda m, x: tail(m, m.a(x) + x), a=conv(3, 3), b=conv(3, 8)),
        *(IMAGES, "a", "others would be changed"),
    ),
    "depthwise on the input": (
        lambda: images(lambda m, x: tail(m, m.a(x)), a=conv(3, 3, groups=3), b=conv(3, 8)),
        *(IMAGES, "a", "inputs of the model"),
    ),
    "halves": (
        lambda: rows(lambda m, x: tail(m, F.glu(m.a(x))), a=nn.Linear(6, 16)),
        *(ROWS, "a", "as often as the others"),
    ),
    "a circle": (
        lambda: rows(lambda m, x: tail(m, rotated(m.a(x)))),
        *(ROWS, "a", "come to one place"),
    ),
    "fixed sizes": (
        lambda: rows(lambda m, x: tail(m, m.a(x).reshape(2, 5, 2, 4).flatten(2))),
        *(ROWS, "a", "others would be changed"),
    ),
}


def rotated(x):
    """Turn pairs, as rotary embeddings do."""
    return x + torch.cat([-x[..., 4:], x[..., :4]], -1)


@torch.no_grad()
def zeroed(model):
    """Set some outputs of all layers to zero, and some inputs."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and "weight" in layer._parameters:
            for axis, size in enumerate(layer.weight.shape[:2]):
                layer.weight.index_fill_(axis, torch.randperm(size)[: size // 3], 0)
            layer.bias[~layer.weight.flatten(1).any(1)] = 0
    return model


@pytest.mark.filterwarnings("ignore:filters that are zero stay")
@pytest.mark.parametrize("name", STAY)
def test_what_does_not_go_by_channel_stays(name):
    make, x, layer, why = STAY[name]
    torch.manual_seed(0)
    model = make().eval()
    groups = sl.pruning.coupled_channels(model, x)
    mine = [g for g in groups if f"{layer}.weight" in g.producers | g.hands_on] or groups
    assert any(re.search(why, group.fixed) for group in mine), mine
    small = sl.compact(zeroed(model), x)
    sizes = [m.get_submodule(layer).weight.shape[0] for m in (model, small)]
    assert sizes[0] == sizes[1]
    model, small = model.double(), small.double()
    for inputs in (x.double(), torch.randn_like(x.double())):
        for a, b in zip(tensors_in(model(inputs)), tensors_in(small(inputs)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_what_goes_together_by_hand():
    """A sum, a concatenation and flattened maps."""

    def run(m, x):
        x = torch.cat([F.relu(m.a(x) + m.d(x)), m.e(x)], 1)
        return m.c(m.n(m.b(x)).flatten(1))

    model = images(
        run,
        d=conv(3, 8, 1),
        e=conv(3, 2),
        b=conv(10, 4),
        n=nn.BatchNorm2d(4),
        c=nn.Linear(4 * 64, 2),
    )
    state = copy.deepcopy(model.state_dict())
    groups = {group.name: group for group in sl.pruning.coupled_channels(model, IMAGES)}
    (summed,) = (g for g in groups.values() if "a.weight" in g.producers)
    assert summed.producers.keys() == {"a.weight", "d.weight"}
    assert summed.consumers == {"b.weight": [[c] for c in range(8)]}
    assert groups["e.weight"].consumers == {"b.weight": [[8], [9]]}
    assert groups["b.weight"].consumers["c.weight"][1] == list(range(64, 128))
    assert groups["b.weight"].norms.keys() == {"n.weight"}
    assert {name for name, group in groups.items() if group.fixed} == {"c.weight"}
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_compiled_model_has_the_groups_of_the_plain_one_by_its_own_names():
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    x = torch.randn(1, 3, 8, 8)
    compiled = torch.compile(plain, backend="eager")
    (group,) = [one for one in sl.pruning.coupled_channels(compiled, x) if not one.fixed]
    assert (*group.producers, *group.norms, *group.consumers) == (
        "_orig_mod.0.weight",
        "_orig_mod.1.weight",
        "_orig_mod.3.weight",
    )
    options = {"pattern": "coupled", "sparsity": 0.5, "data": [(x, None)], "exclude": ()}
    found = sl.find_masks(compiled, **options)
    wanted = sl.find_masks(plain, **options)
    assert all(torch.equal(found[f"_orig_mod.{name}"], wanted[name]) for name in wanted)
    assert sum(p.numel() for p in sl.compact(compiled, x).parameters()) > 0


def test_a_model_without_values_is_refused():
    model = nn.Sequential(conv(3, 4), conv(4, 2)).to("meta")
    for use in (sl.compact, sl.pruning.coupled_channels):
        with pytest.raises(sl.SparselthError, match="lies on the meta device, without values"):
            use(model, IMAGES.to("meta"))


def test_hooks_of_a_model_are_not_called_for_the_runs_of_copies():
    called = []
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 2, 1))
    layer = model[2]
    layer.register_forward_hook(lambda *_: called.append("after"))
    layer.register_forward_pre_hook(lambda *_: called.append("before"))
    layer.register_full_backward_hook(lambda *_: called.append("backward"))
    with torch.no_grad():
        layer.weight[2] = 0
        layer.bias[2] = 0
    small = sl.compact(model, IMAGES)
    sl.find_masks(model, pattern="coupled", sparsity=0.5, exclude=(), data=[(IMAGES, None)])
    small(IMAGES)
    assert not called
    assert small[2].out_channels == 7
    model(IMAGES).sum().backward()
    assert called == ["before", "after", "backward"]
