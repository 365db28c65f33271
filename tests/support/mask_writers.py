"""Writers of weights, masks and slots, each on a sparse model of one layer. See test_state."""

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import sparselth as sl


def seeded(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mixed = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.mixed(x, x, x)[0]


# Layer, its input, and the parameter with the mask.
LAYERS = {
    "conv2d": (lambda: nn.Conv2d(4, 8, 3), (2, 4, 6, 6), "0.weight"),
    "linear": (lambda: nn.Linear(6, 16), (3, 6), "0.weight"),
    "conv1d": (lambda: nn.Conv1d(4, 8, 3), (2, 4, 9), "0.weight"),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4), "0.weight"),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5), "0.weight"),
    "attention": (Attention, (2, 5, 8), "0.mixed.in_proj_weight"),
}


class Case:
    """A sparse model of one layer, its weight's owner, and the mask written in some tests."""

    def __init__(self, layer, sparsity=0.7):
        make, shape, self.name = LAYERS[layer]
        torch.manual_seed(1)
        self.model = nn.Sequential(make())
        self.x = seeded(*shape, seed=2)
        path, _, self.local = self.name.rpartition(".")
        self.owner = self.model.get_submodule(path)
        self.before = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.model(self.x).square().mean().backward()
        self.before.step()  # momentum everywhere
        self.before.zero_grad()
        masks = sl.find_masks(self.model, sparsity=sparsity, exclude=())
        sl.sparsify(self.model, {self.name: masks[self.name]})
        self.model(self.x)  # what is derived from the mask is there
        weight = self.weight
        self.other = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.4

    @property
    def weight(self):
        return self.owner._parameters[self.local]

    @property
    def mask(self):
        return self.owner._buffers[f"{self.local}_mask"]

    def set_slot(self, value):
        setattr(self.owner, self.local, value)

    def dense(self):
        """A dense model of the weight and the mask as they are now, made without our modules."""
        twin = nn.Sequential(LAYERS_BY_NAME[self.name_of()]())
        state = {k: v for k, v in raw_state(self.model).items() if not k.endswith("_mask")}
        state[self.name] = torch.where(self.mask, state[self.name], 0.0)
        twin.load_state_dict(state)
        return twin

    def name_of(self):
        return type(self.owner)._plain.__name__


def raw_state(model):
    """Parameters and buffers as they are in their slots, whatever `state_dict` makes of them."""
    tensors = {}
    for path, module in model.named_modules():
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                if tensor is not None:
                    tensors[f"{path}.{name}" if path else name] = tensor.detach().clone()
    return tensors


LAYERS_BY_NAME = {
    "Conv2d": LAYERS["conv2d"][0],
    "Linear": LAYERS["linear"][0],
    "Conv1d": LAYERS["conv1d"][0],
    "Conv3d": LAYERS["conv3d"][0],
    "ConvTranspose2d": LAYERS["transposed"][0],
    "MultiheadAttention": Attention,
}


# --- who writes -------------------------------------------------------------------------------


class WritesThroughData(torch.optim.Optimizer):
    """As many optimizers outside of torch do."""

    def __init__(self, parameters):
        super().__init__(list(parameters), {})

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(1.0)


def other_state(case):
    state = {k: seeded(*v.shape, seed=5) for k, v in raw_state(case.model).items()}
    state[f"{case.name}_mask"] = case.other
    return state


def dense_state(case):
    state = other_state(case)
    del state[f"{case.name}_mask"]
    return state


def averaged(case):
    average = torch.optim.swa_utils.AveragedModel(case.model)
    with torch.no_grad():
        case.weight.add_(1.0)
    average.update_parameters(case.model)
    average.module(case.x)
    with torch.no_grad():
        for mine, its in zip(case.model.parameters(), average.module.parameters(), strict=True):
            mine.copy_(its)


def by_other_optimizer(case):
    nn.init.ones_(case.weight)
    for parameter in case.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(case.model.parameters(), lr=0.1, weight_decay=0.1).step()
    case.model.zero_grad()


def by_stale_momentum(case):
    for parameter in case.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    case.before.step()
    assert not case.weight[~case.mask].any()  # at once
    case.model.zero_grad()


def swapped(case):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        case.model.double().float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    nn.init.ones_(case.weight)


def load_swapped(case):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        case.model.load_state_dict(other_state(case))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def overwritten(case):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        case.model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    nn.init.ones_(case.weight)


def within_inference(case):
    with torch.inference_mode():
        nn.init.ones_(case.weight)
        case.mask.copy_(case.other)


def mask_data_again(case):
    mask = mask_of(case)
    mask.data.copy_(~case.other)
    case.model(case.x)
    mask.data.copy_(case.other)


def ones_that_are_known(case):
    # As DistributedDataParallel writes buffers before every forward.
    for _ in range(2):
        case.mask.copy_(case.mask.clone())
        case.model(case.x)


WRITES = {
    "nothing": lambda case: None,
    # the weight
    "init": lambda case: nn.init.normal_(case.weight),
    "kaiming": lambda case: nn.init.kaiming_uniform_(getattr(case.owner, case.local)),
    "copy_": lambda case: case.weight.detach().copy_(torch.ones_like(case.weight)),
    "index": lambda case: case.weight.detach().__setitem__(0, 1.0),
    "data=": lambda case: setattr(case.weight, "data", torch.ones_like(case.weight)),
    "data.fill_": lambda case: case.weight.data.fill_(1.0),
    "data.add_": lambda case: case.weight.data.add_(1.0),
    "numpy": lambda case: case.weight.detach().numpy().fill(1.0),
    "vector": lambda case: vector_to_parameters(
        torch.ones_like(parameters_to_vector(case.model.parameters())), case.model.parameters()
    ),
    "module.apply": lambda case: case.model.apply(
        lambda m: [nn.init.ones_(p) for p in m.parameters(recurse=False)]
    ),
    "stale momentum": by_stale_momentum,
    "other optimizer": by_other_optimizer,
    "optimizer by data": lambda case: WritesThroughData(case.model.parameters()).step(),
    "state_dict tensor": lambda case: case.model.state_dict()[case.name].fill_(1.0),
    "average": averaged,
    "nan": lambda case: case.weight.data.masked_fill_(~case.mask, float("nan")),
    # the mask
    "mask copy_": lambda case: case.mask.copy_(case.other),
    "mask copy_ of the same": ones_that_are_known,
    "mask item": lambda case: case.mask.__setitem__(0, True),
    "mask zero_": lambda case: case.mask.zero_(),
    "mask logical": lambda case: case.mask.logical_and_(case.other),
    "mask by attribute": lambda case: mask_of(case).copy_(case.other),
    "mask data": lambda case: mask_of(case).data.copy_(case.other),
    "mask data, again": mask_data_again,
    "mask data=": lambda case: setattr(mask_of(case), "data", case.other.clone()),
    "mask numpy": lambda case: mask_of(case).numpy().__setitem__(slice(None), case.other.numpy()),
    "mask in inference mode": within_inference,
    # slots
    "parameter replaced": lambda case: case.set_slot(nn.Parameter(torch.ones_like(case.weight))),
    "mask replaced": lambda case: setattr(case.owner, f"{case.local}_mask", case.other),
    "sparsify again": lambda case: sl.sparsify(case.model, {case.name: case.other}),
    "slot written directly": lambda case: case.owner._parameters.__setitem__(
        case.local, nn.Parameter(torch.ones_like(case.weight))
    ),
    "mask slot directly": lambda case: case.owner._buffers.__setitem__(
        f"{case.local}_mask", case.other
    ),
    "mask registered": lambda case: case.owner.register_buffer(f"{case.local}_mask", case.other),
    "load": lambda case: case.model.load_state_dict(other_state(case)),
    "load dense": lambda case: case.model.load_state_dict(dense_state(case)),
    "load and assign": lambda case: case.model.load_state_dict(other_state(case), assign=True),
    "swapped": swapped,
    "load swapped": load_swapped,
    "mask swapped": lambda case: torch.utils.swap_tensors(case.mask, case.other.clone()),
    "shown mask swapped": lambda case: torch.utils.swap_tensors(mask_of(case), case.other.clone()),
    "weight swapped": lambda case: torch.utils.swap_tensors(
        case.weight, nn.Parameter(torch.ones_like(case.weight))
    ),
    "overwritten": overwritten,
    "to_empty": lambda case: (
        case.model.to("meta").to_empty(device="cpu"),
        case.model.load_state_dict(other_state(case)),
    ),
}


def mask_of(case):
    return getattr(case.owner, f"{case.local}_mask")
