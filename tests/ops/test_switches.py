"""`use_backend` and `use_choice` hold in one thread or asynchronous task, compiled or not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from timeit import repeat
from types import SimpleNamespace

import pytest
import torch

import sparselth as sl
from sparselth.ops import switches
from sparselth.ops.autograd import linear, registry
from sparselth.ops.kernel_choice import decide

_OTHER_CHOICE = next(name for name in decide.MODES if name != decide.mode())
BOTH = pytest.mark.parametrize(
    ("use", "name", "read", "outside"),
    [
        (sl.use_backend, "reference", switches.forced, None),
        (sl.use_choice, _OTHER_CHOICE, decide.mode, decide.mode()),
    ],
    ids=["use_backend", "use_choice"],
)


@BOTH
def test_a_thread_does_not_change_others(use, name, read, outside):
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with use(name):
            entered.set()
            leave.wait(10)
            seen.append(read())

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    assert read() == outside
    leave.set()
    thread.join()
    assert seen == [name]
    assert read() == outside


@BOTH
def test_a_thread_inherits_only_where_it_is_given_the_context(use, name, read, outside):
    seen = []
    with use(name):
        context = contextvars.copy_context()
        for target in (
            lambda: seen.append(read()),
            lambda: context.run(lambda: seen.append(read())),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [outside, name]


@BOTH
def test_asynchronous_tasks_do_not_change_each_other(use, name, read, outside):
    async def inside(turn: asyncio.Event, done: asyncio.Event):
        with use(name):
            turn.set()
            await done.wait()
            return read()

    async def beside(turn: asyncio.Event, done: asyncio.Event):
        await turn.wait()
        seen = read()
        done.set()
        return seen

    async def both():
        events = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(inside(*events), beside(*events))

    assert asyncio.run(both()) == [name, outside]
    assert read() == outside


@BOTH
def test_a_name_is_checked_before_the_block(use, name, read, outside):
    for bad in ("nonsense", None, [name]):
        with pytest.raises(sl.SparselthError, match="unknown"):
            use(bad)
    use(name)
    assert read() == outside, "only a block changes anything"


@BOTH
def test_blocks_nest_and_functions_are_decorated(use, name, read, outside):
    @use(name)
    def inside(depth):
        return [read()] if depth == 0 else [read(), *inside(depth - 1)]

    with use(name), use(name):
        assert inside(1) == [name, name]
        assert read() == name
    assert inside(2) == [name] * 3
    assert read() == outside


def test_compiled_functions_follow_the_context_they_run_in():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    mask = torch.rand(5, 4) < 0.5
    graphs = []

    def backend(graph, _):
        graphs.append(str(graph.graph))
        return graph.forward

    @torch.compile(fullgraph=True, backend=backend)
    def layer(x):
        return sl.ops.masked_linear(x, weight, mask)

    want = x @ (weight * mask).t()
    torch.testing.assert_close(layer(x), want)
    with sl.use_backend("reference"):
        torch.testing.assert_close(layer(x), want)
    assert len(graphs) == 2, "use_backend did not lead to another program"
    assert "sparselth" in graphs[0]
    assert "sparselth" not in graphs[1]
    layer(x)
    seen = []

    def other():
        with sl.use_backend("reference"):
            seen.append(layer(x))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    torch.testing.assert_close(seen[0], want)
    assert len(graphs) == 2, "what was compiled is found again, in another thread too"


def test_a_backward_in_another_thread_is_forced_as_its_forward(monkeypatch):
    """As autograd's own threads on a GPU: they have a context of their own."""
    weight = torch.randn(5, 4, requires_grad=True)
    mask = torch.rand(5, 4) < 0.5
    seen = []
    formula = linear.linear_backward

    def spying(ctx, grad):
        seen.append(switches.forced())
        return formula(ctx, grad)

    setup = linear.linear_setup
    backends = {}
    monkeypatch.setattr(
        registry,
        "make_autograd_impl",
        lambda op, info: backends.update(run=info._backward_fn, keep=info._setup_context_fn),
    )
    library = SimpleNamespace(impl=lambda *args, **kwargs: None)
    monkeypatch.setattr(registry, "_autograd", library)
    registry.register_formula("masked_linear", setup, spying)

    class Context:
        needs_input_grad = (True, True, False, False, False)

        def save_for_backward(self, *tensors):
            self.saved_tensors = tensors

    ctx, x = Context(), torch.randn(3, 4)
    with switches.forcing("cpu"):
        backends["keep"](ctx, (x, weight.detach(), mask, None, None), None)
    thread = threading.Thread(target=lambda: backends["run"](ctx, torch.randn(3, 5)))
    thread.start()
    thread.join()
    assert seen == ["cpu"]
    assert switches.forced() is None


def test_asking_costs_next_to_nothing():
    """Every layer asks several times in a step; the bound leaves room for a busy machine."""
    best = min(repeat(switches._forced.get, number=20_000, repeat=5)) / 20_000
    assert best < 100e-9
