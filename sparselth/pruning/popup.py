"""Edge-popup: which subnetwork of a random network is good, without training one weight."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..checks import check_model, kind
from ..errors import SparselthError
from ..nn import masks_of, move_masks, sparsify
from ..nn.dense_gradients import hook_on_own_output, input_of, weight_gradient
from ..nn.kinds import owners_of
from ..nn.module import MaskedModule
from ..ops.checks import check_sparsity, kept_counts
from ..ops.selection import topk_mask
from .tensors import check_values, layer_of, prunable_parameters

SCORE, DRAWN = "weight_score", "weight_drawn"


class EdgePopup:
    """Trains a score for each weight, and keeps those of largest magnitude; weights stay as drawn.

    Every parameter of the model is frozen. Each layer gets scores, parameters of its own named
    "weight_score", for the optimizer, and a buffer "weight_drawn" of its weights as they were, as
    those that are out are zero in a masked layer. After each step of the optimizer `step()` moves
    the masks to the top k of |score|, exactly k in every layer. Forwards and the gradients of
    inputs run on the masked kernels; the gradient by |score| is that of the masked weight times
    the weight, kept or not (straight-through), which is computed densely.

    model: plain, as initialized; made sparse here.  sparsity: share of each layer's weights that
    is out, in (0, 1); the paper's best keep half to three tenths.
    exclude: as in `prunable_parameters`, but that nothing is left out by default, as what is left
    out stays random.
    `finish()` takes the scores off; what remains is a sparse model, to be trained as any.

    Raises SparselthError for a model that is sparse already, and for layers other than Conv1d,
    Conv2d and Linear, or whose weight another module computes with: an attention's out_proj.

    Reference: Ramanujan et al. 2020, "What's hidden in a randomly weighted neural network?",
    arXiv:1911.13299, equations 2 to 5; Malach et al. 2020, arXiv:2002.00585, proves that there is
    one.
    """

    eager_only = True

    def __init__(self, model: nn.Module, sparsity: float, *, exclude: Collection[str] = ()) -> None:
        check_model(model)
        if masks_of(model):
            raise SparselthError("EdgePopup makes a plain model sparse itself; densify it first")
        weights = prunable_parameters(model, exclude=exclude)
        layers = {name: layer_of(model, name) for name in weights}
        for name, layer in layers.items():
            if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)) or name.endswith("_weight"):
                raise SparselthError(
                    f"EdgePopup scores Conv1d, Conv2d and Linear layers; {name} is that of a "
                    f"{type(layer).__name__}, exclude it"
                )
        attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        read = {id(attention.out_proj) for attention in attentions}
        if past := [name for name, layer in layers.items() if id(layer) in read]:
            raise SparselthError(
                f"EdgePopup's scores learn in their layers' forwards, and the attention around "
                f"{', '.join(past)} computes with the weight itself: exclude it"
            )
        owners = owners_of(model)
        if shared := [name for name, weight in weights.items() if len(owners[id(weight)]) > 1]:
            raise SparselthError(
                f"EdgePopup has one score for each use of a weight, and several layers share "
                f"{', '.join(shared)}: exclude it"
            )
        check_values(weights)
        if not (share := check_sparsity(sparsity)):
            raise SparselthError(
                "EdgePopup's sparsity must be in (0, 1), got 0: with every weight kept there is "
                "nothing to choose"
            )
        counts, _ = kept_counts(list(weights.values()), sparsity=share)
        self.model, self.names, self._finished = model, list(weights), False
        self.counts = [max(count, 1) for count in counts]
        self._trained = [p for p in model.parameters() if p.requires_grad]
        model.requires_grad_(False)
        for name, weight in weights.items():
            score = torch.empty_like(weight)
            nn.init.kaiming_uniform_(score, a=math.sqrt(5))
            layers[name].register_parameter(SCORE, nn.Parameter(score))
            layers[name].register_buffer(DRAWN, weight.detach().clone())
        sparsify(model, self._masks())
        self._hooks: list[RemovableHandle] = [
            hook_on_own_output(layer, _through_score) for layer in layers.values()
        ]

    @property
    def scores(self) -> dict[str, nn.Parameter]:
        """The scores, by the names of their weights.

        Raises SparselthError once they are gone, by `finish`, as `step` and `finish` do.
        """
        if self._finished:
            raise SparselthError(
                "this EdgePopup is finished and its scores are gone; make one of a plain model"
            )
        return {name: layer_of(self.model, name).get_parameter(SCORE) for name in self.names}

    def _masks(self) -> dict[str, Tensor]:
        scores = [score.detach() for score in self.scores.values()]
        masks = topk_mask(scores, self.counts, allocation="given", names=self.names)
        return dict(zip(self.names, masks, strict=True))

    def step(self) -> bool:
        """Move the masks to where the scores are now; say that it did.

        Raises SparselthError on NaN or Inf in a score, and after `finish`.
        """
        masks = self._masks()
        with torch.no_grad():
            for name in self.names:
                layer = layer_of(self.model, name)
                layer._parameters["weight"].copy_(layer._buffers[DRAWN])
        move_masks(self.model, masks)
        return True

    def finish(self) -> None:
        """Take the scores off; the model stays sparse, and frozen only what was so before.

        Raises SparselthError where it was called already.
        """
        names = list(self.scores)
        for handle in self._hooks:
            handle.remove()
        self._finished = True
        for name in names:
            layer = layer_of(self.model, name)
            del layer._parameters[SCORE], layer._buffers[DRAWN]
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs besides the model's own state: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned: the masks follow the scores.

        Raises SparselthError for what is none.
        """
        if not isinstance(state, Mapping) or state:
            raise SparselthError(f"a state of EdgePopup is empty, got {kind(state)}")
        self.step()


def _through_score(
    layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Tensor
) -> Tensor:
    score = layer._parameters.get(SCORE)
    if score is None or not torch.is_grad_enabled() or not score.requires_grad:
        return out
    return _ThroughScore.apply(out, input_of(args, named), score, layer)


class _ThroughScore(torch.autograd.Function):
    """Hands a layer's output on; its gradient reaches the scores as that of the whole weight."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, score: Tensor, layer: nn.Module) -> Tensor:
        ctx.save_for_backward(x, score)
        ctx.layer = layer
        ctx.mark_dirty(out)  # not a view, which nobody might write to
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        is_masked = isinstance(ctx.layer, MaskedModule)
        if not is_masked:
            raise SparselthError(
                "a layer that EdgePopup scores was made dense, and its scores cannot learn; call "
                "finish() before sparselth.densify"
            )
        x, score = ctx.saved_tensors
        drawn = ctx.layer._buffers[DRAWN]
        by_magnitude = weight_gradient(ctx.layer, x, grad, drawn) * drawn
        return grad, None, by_magnitude * score.sign(), None
