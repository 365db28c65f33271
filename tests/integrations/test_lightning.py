"""lightning's Trainer on a sparse module."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(2))


class Module(lightning.LightningModule):
    def __init__(self, optimizer=sl.optim.SGD):
        super().__init__()
        self.optimizer = optimizer
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 4)),
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.05, momentum=0.9)


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=8)


def trainer(folder, epochs, **options):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def sparse(masks=None, **options):
    torch.manual_seed(0)
    module = Module(**options)
    masks = masks or sl.find_masks(module, sparsity=0.8)
    return sl.sparsify(module, masks), masks


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def test_validate_then_fit_trains_as_a_plain_loop_does(tmp_path):
    module, masks = sparse()
    twin = copy.deepcopy(module)
    run = trainer(tmp_path, epochs=2)
    run.validate(module, loader(), verbose=False)  # in inference mode, before anything else
    run.fit(module, loader(), loader())
    optimizer = twin.configure_optimizers()
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(weights(module), weights(twin))
    assert sl.sparsity(module) == sl.sparsity(masks)
    for name, mask in masks.items():
        assert not module.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("optimizer", [sl.optim.SGD, torch.optim.SGD])
def test_a_checkpoint_goes_on_and_keeps_the_masks(tmp_path, optimizer):
    module, masks = sparse(optimizer=optimizer)
    first = trainer(tmp_path, epochs=1)
    first.fit(module, loader(), loader())
    first.save_checkpoint(tmp_path / "one.ckpt")
    resumed, _ = sparse(masks, optimizer=optimizer)
    options = {"ckpt_path": tmp_path / "one.ckpt", "weights_only": False}
    trainer(tmp_path, epochs=3).fit(resumed, loader(), loader(), **options)
    whole, _ = sparse(masks, optimizer=optimizer)
    trainer(tmp_path, epochs=3).fit(whole, loader(), loader())
    torch.testing.assert_close(weights(resumed), weights(whole))
    for name, mask in masks.items():
        assert torch.equal(sl.masks_of(resumed)[name], mask)
        assert not resumed.get_parameter(name)[~mask].any()


def test_a_checkpoint_brings_its_masks(tmp_path):
    module, masks = sparse()
    run = trainer(tmp_path, epochs=1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "one.ckpt")
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    other, _ = sparse({name: torch.ones_like(mask) for name, mask in masks.items()})
    other.load_state_dict(state)
    assert sl.sparsity(other) == sl.sparsity(masks)
    torch.testing.assert_close(other.eval()(X), module.eval()(X))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight_mask"):
        Module().load_state_dict(state)  # plain torch: densify first, or sparsify there


def test_weight_averaging_and_clipping(tmp_path):
    module, masks = sparse()
    average = lightning.pytorch.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    trainer(tmp_path, epochs=3, callbacks=[average], gradient_clip_val=0.5).fit(module, loader())
    assert sl.sparsity(module) == sl.sparsity(masks)
    for name, mask in masks.items():
        assert not module.get_parameter(name)[~mask].any()
        assert module.get_parameter(name)[mask].any()
