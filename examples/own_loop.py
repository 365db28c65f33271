"""Prune a network with ADMM and fine-tune it, in a training loop of one's own."""

import torch
from torch.nn.functional import cross_entropy

import sparselth as sl

EPOCHS, DEVICE = 3, torch.device("cpu")

digits = sl.data.load("mnist5k").limited(train=1000, test=500)
batches = sl.data.Batches(digits, batch_size=64, seed=0, augment=False, device=DEVICE)
model = sl.models.build("resnet20", num_classes=10, in_channels=1, width=0.25)


def train(optimizer, after_epoch=None):
    for epoch in range(EPOCHS):
        for x, labels in batches.train(epoch):
            optimizer.zero_grad()
            cross_entropy(model(x), labels).backward()
            optimizer.step()
        if after_epoch is not None:
            after_epoch()


# Dense training first, then towards a sparse set, then on the mask.
train(sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
admm = sl.ADMM(model, sparsity=0.9, rho=0.01, rho_schedule=sl.pruning.rho.growing(3.0))
train(sl.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, admm=admm), admm.update)
sl.sparsify(model, admm.hard_prune())
train(sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))

accuracy = sl.training.evaluate(model, batches)
print(f"{accuracy:.1f} % correct at {100 * sl.sparsity(model):.1f} % sparsity")
