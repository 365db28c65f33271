"""torch's own samples of its modules, on masks: as the dense module with its weights multiplied."""

import copy

import pytest
import torch
from support.torch_samples import ModuleErrorEnum, module_db
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_map_only

import sparselth as sl
from sparselth.nn.kinds import sites_of

pytestmark = pytest.mark.usefixtures("one_thread")


def samples_of(info, training):
    found = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    )
    return found[:: len(found) // 100 + 1]  # of one loss there are hundreds


def built(info, sample, training):
    given = sample.constructor_input
    torch.manual_seed(0)
    return info.module_cls(*given.args, **given.kwargs).double().train(training)


def has_places(info):
    return bool(sites_of(built(info, samples_of(info, True)[0], True)))


MODULES = {info.name: info for info in module_db if has_places(info)}


def test_the_samples_are_there():
    convolutions = {f"nn.Conv{t}{d}d" for t in ("", "Transpose") for d in (1, 2, 3)}
    lazy = {name.replace("nn.Conv", "nn.LazyConv") for name in convolutions}
    others = {"Linear", "Embedding", "MultiheadAttention", "Transformer"}
    others |= {"TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoderLayer"}
    assert convolutions | lazy | {f"nn.{name}" for name in others} <= set(MODULES)


def results_of(module, sample, masks):
    """Return outputs, gradients of inputs and of parameters, cut to the masks; and without grad."""
    given = (sample.forward_input.args, sample.forward_input.kwargs)
    args, kwargs = tree_map_only(
        torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), given
    )
    inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    torch.manual_seed(1)
    outputs = [y for y in tree_flatten(module(*args, **kwargs))[0] if y is not None]
    sum(y.sin().sum() for y in outputs if y.requires_grad).backward()
    gradients = {n: p.grad for n, p in module.named_parameters()}
    for name, mask in masks.items():
        if gradients[name] is not None:
            gradients[name] = gradients[name] * mask
    with torch.no_grad():
        torch.manual_seed(1)
        again = tree_flatten(module(*args, **kwargs))[0]
    return outputs, [t.grad for t in inputs if t.requires_grad], gradients, again


@pytest.mark.parametrize("keep", ["all", "some"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_computes_what_its_masked_twin_does(name, training, keep):
    info = MODULES[name]
    for sample in samples_of(info, training):
        module = built(info, sample, training)
        if any(is_lazy(p) for p in module.parameters()):
            with pytest.raises(sl.SparselthError, match="no shape before the model's first"):
                sl.find_masks(module, exclude=())
            module(*sample.forward_input.args)
        dense = copy.deepcopy(module)
        weights = {name: site.parameter for name, site in sites_of(module).items()}
        assert weights
        masks = {n: torch.rand_like(w) < (0.5 if keep == "some" else 2) for n, w in weights.items()}
        with torch.no_grad():
            for path, mask in masks.items():
                dense.get_parameter(path).mul_(mask)
        sl.sparsify(module, masks)
        got, want = (results_of(net, sample, masks) for net in (module, dense))
        torch.testing.assert_close(
            got, want, msg=lambda text, s=sample: f"{s.desc} {s.constructor_input.kwargs}: {text}"
        )
        for path, mask in masks.items():
            gradient = module.get_parameter(path).grad
            assert gradient is None or not gradient[~mask].any()
        sl.densify(module)
        assert type(module) is type(dense)
        assert module.state_dict().keys() == dense.state_dict().keys()
        for path, tensor in module.state_dict().items():
            assert torch.equal(tensor, dense.state_dict()[path])


def test_a_masked_module_refuses_what_the_dense_one_does():
    tried = 0
    for info in MODULES.values():
        if info.module_error_inputs_func is None:
            continue
        for error in info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
        ):
            if error.error_on is not ModuleErrorEnum.FORWARD_ERROR:
                continue
            sample = error.module_error_input
            module = built(info, sample, True)
            masks = {n: site.parameter > 0 for n, site in sites_of(module).items()}
            sl.sparsify(module, masks)
            with pytest.raises(error.error_type, match=error.error_regex):
                module(*sample.forward_input.args, **sample.forward_input.kwargs)
            tried += 1
    assert tried
