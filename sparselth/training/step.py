"""One step of training: forward, backward, update; as it is, compiled, or as one CUDA graph.

Nothing here waits for a GPU, except fp16's loss scaling, which reads once whether a gradient
overflowed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.given import IGNORED, check_labels
from ..errors import SparselthError
from .logits import laid_out, logits_of
from .recipe import Recipe

Result = tuple[Tensor, Tensor]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_step(recipe: Recipe, device: torch.device) -> None:
    """Refuse a form of step that the device cannot take."""
    if recipe.step == "graph" and device.type != "cuda":
        raise SparselthError(
            f'a recipe got step="graph", and the model is on {device.type}; a CUDA graph needs '
            'a GPU, step="compile" does not'
        )


class TrainingStep:
    """Trains `model` on a batch; called as step(x, labels, images).

    x, labels: what this process has of the batch.  images: how many it has in all processes.
    Returns the mean loss over x and the number of right answers, on the device.

    model: as called; its gradients are averaged over `processes`.
    classes_known: called with the number of logits before anything is updated.

    Raises SparselthError for x that the model cannot take, an answer that is no logits, and labels
    of the first batch beyond them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        device: torch.device,
        processes: int = 1,
        classes_known: Callable[[int], None] | None = None,
    ) -> None:
        check_step(recipe, device)
        self.model = model
        self.optimizer = optimizer
        self.recipe = recipe
        self.device = device
        self.processes = processes
        self._unchecked = True
        self._classes_known = classes_known
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._forward: Callable[[Tensor, Tensor], Result] = self._loss
        if recipe.step == "compile":
            self._forward = torch.compile(self._loss, dynamic=False)
        self._run: Callable[[Tensor, Tensor, int], Result] = self._update
        if recipe.step == "graph":
            self._run = _Graphed(self._update, optimizer)

    def __call__(self, x: Tensor, labels: Tensor, images: int) -> Result:
        x = laid_out(x)
        if self._unchecked and self.recipe.step == "compile":
            self._try(x, labels)  # a compiled program cannot look at labels
        return self._run(x, labels, images)

    def _try(self, x: Tensor, labels: Tensor) -> None:
        """Check the first batch by a forward of its own, which changes nothing."""
        training = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.random.fork_rng(), self.autocast():
                self._check(logits_of(self.model, x, "data"), labels)
        finally:
            for module, was in training.items():
                module.training = was

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        """Check what only the first batch shows; later labels are checked as they come."""
        self._unchecked = False
        if not logits.requires_grad:
            raise SparselthError(
                "the model's logits do not depend on its parameters by any gradient, so there is "
                "nothing to train; look for torch.no_grad or detach in its forward"
            )
        classes = logits.shape[1]
        if self._classes_known is not None:
            self._classes_known(classes)
        check_labels(labels, classes, "the first batch", IGNORED)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss scaling."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.scaler.load_state_dict(state)

    def _loss(self, x: Tensor, labels: Tensor) -> Result:
        logits = logits_of(self.model, x, "data")
        if self._unchecked and not torch.compiler.is_compiling():
            self._check(logits, labels)
        loss = F.cross_entropy(logits, labels)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that forwards are computed in, in the recipe's precision."""
        dtype = _DTYPES.get(self.recipe.precision)
        if dtype is None:
            return nullcontext()
        # A cache of casts would outlive the capture it was filled in.
        cache = self.recipe.step != "graph"
        return torch.autocast(self.device.type, dtype, cache_enabled=cache)

    def _update(self, x: Tensor, labels: Tensor, images: int) -> Result:
        self.optimizer.zero_grad(set_to_none=True)
        count = self.recipe.accumulate
        parts = list(zip(x.chunk(count), labels.chunk(count), strict=True))
        results = []
        for i, part in enumerate(parts):
            share = len(part[0]) / images
            with self._gathering_later(i + 1 < len(parts)):
                with self.autocast():
                    loss, correct = self._forward(*part)
                self._backward(loss, share)
            results.append((loss.detach().float() * (len(part[0]) / len(x)), correct))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        losses, counts = zip(*results, strict=True)
        return torch.stack(losses).sum(), torch.stack(counts).sum()

    def _backward(self, loss: Tensor, share: float) -> None:
        """Add gradients: those of parts are summed, those of processes averaged."""
        share *= self.processes
        self.scaler.scale(loss * share if share != 1 else loss).backward()

    def _gathering_later(self, later: bool) -> AbstractContextManager[None]:
        """Return where gradients stay in this process, when more parts follow."""
        if later and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


@dataclass(frozen=True)
class _Captured:
    """A step as a CUDA graph: what it reads, what it fills in, and for which settings."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor]
    result: Result
    settings: Any


class _Graphed:
    """A step as a CUDA graph, captured anew where the settings of the optimizer changed.

    The first batches are ordinary steps on a stream of their own, as a capture wants everything
    made before: optimizer state, plans, measured choices. Batches of another size than the first,
    the last ones of epochs, stay ordinary.
    """

    _ORDINARY = 3

    def __init__(
        self, step: Callable[[Tensor, Tensor, int], Result], optimizer: torch.optim.Optimizer
    ) -> None:
        self.step = step
        self.optimizer = optimizer
        self.shape: torch.Size | None = None
        self.taken = 0
        self.captured: _Captured | None = None

    def __call__(self, x: Tensor, labels: Tensor, images: int) -> Result:
        self.shape = self.shape or x.shape
        if x.shape != self.shape:
            return self.step(x, labels, images)
        self.taken += 1
        if self.taken <= self._ORDINARY:
            return self._aside(x, labels, images)
        if self.captured is None or self.captured.settings != self._settings():
            self.captured = None  # its memory is free before the next one's is taken
            self.captured = self._capture(x, labels, images)
        for buffer, source in zip(self.captured.inputs, (x, labels), strict=True):
            buffer.copy_(source)
        self.captured.graph.replay()
        return self.captured.result

    def _aside(self, *arguments: Any) -> Result:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.step(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _settings(self) -> Any:
        """Return what the kernels of the optimizer are launched with."""
        groups = [
            {name: v for name, v in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        admm = getattr(self.optimizer, "admm", None)
        return groups, None if admm is None else admm.rho

    def _capture(self, x: Tensor, labels: Tensor, images: int) -> _Captured:
        inputs = x.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.step(*inputs, images)
        return _Captured(graph, inputs, result, self._settings())
