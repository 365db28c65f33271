"""Docstrings: every public name, and every op, says what it takes, returns and raises."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache, cached_property
from types import FunctionType, ModuleType

import pytest

import sparselth
from sparselth import data, models, nn, ops, optim, pruning, study, training
from sparselth.errors import SparselthError, unknown_name
from sparselth.ops.contract import ALL_SCHEMAS, OPS, describe

ROOMS = (sparselth, ops, nn, optim, pruning, pruning.rho, training, data, models, study)


def is_ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == "sparselth"


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties that a class has of us, its own first."""
    for base in filter(is_ours, cls.__mro__):
        for name, value in vars(base).items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            ours = isinstance(function, FunctionType) and is_ours(function)
            if not name.startswith("_") and (
                ours or isinstance(value, (property, cached_property))
            ):
                yield name, value if not ours else function


def public() -> dict[str, object]:
    """Return name -> class, function, method or property, each once; constants have no text."""
    found: dict[str, object] = {}
    for room in ROOMS:
        for name in getattr(room, "__all__", vars(room)):
            thing = getattr(room, name)
            if name.startswith("_") or isinstance(thing, ModuleType) or not callable(thing):
                continue
            if is_ours(thing) and thing.__module__.startswith(room.__name__):
                found[f"{room.__name__}.{name}"] = thing
                if isinstance(thing, type):
                    for member, value in members(thing):
                        found.setdefault(f"{room.__name__}.{name}.{member}", value)
    once = {id(thing): name for name, thing in reversed(found.items())}
    return {name: thing for name, thing in found.items() if once[id(thing)] == name}


PUBLIC = public()
CALLED = {n: f for n, f in PUBLIC.items() if isinstance(f, (type, FunctionType))}


def text_of(thing: object) -> str:
    """Return a docstring; of a class those of the classes of ours that it is made of, too."""
    if not isinstance(thing, type):
        return inspect.getdoc(thing) or ""
    texts = [base.__doc__ for base in filter(is_ours, thing.__mro__)]
    return "\n".join(filter(None, [*texts, vars(thing).get("__init__", thing).__doc__]))


# --- what it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_the_first_line_is_one_sentence(name):
    first = (inspect.getdoc(PUBLIC[name]) or "").partition("\n")[0]
    assert re.fullmatch(r"[A-Z`\"].*[.:]", first), f"{name} begins with {first!r}"
    assert not re.search(r"[a-z]\. +[A-Z]", first), f"{name} begins with more than a sentence"


# --- what it takes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLED)
def test_every_parameter_is_named(name):
    thing, text = CALLED[name], text_of(CALLED[name])
    if isinstance(thing, type) and not is_ours(thing.__init__):
        return  # torch, or Python, says what it is made from
    parameters = inspect.signature(thing).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p for p in named if p not in ("self", "cls") and not re.search(rf"\b{p}\b", text)]
    assert not missing, f"{name} does not say what {', '.join(missing)} may be"


# --- what it raises -----------------------------------------------------------------------------


@cache
def raises(function: FunctionType, depth: int) -> str:
    """Say which call of a function raises SparselthError, looking `depth` calls further down."""
    if function.__code__.co_filename == "<string>":
        return ""  # made by dataclasses
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None and _is_ours(node.exc, function):
            return ast.unparse(node.exc)[:60]
        if isinstance(node, ast.Call) and depth:
            called = _called(node.func, function)
            if isinstance(called, FunctionType) and is_ours(called) and raises(called, depth - 1):
                return called.__qualname__
    return ""


def _called(node: ast.expr, function: FunctionType) -> object:
    """Return what an expression such as `name` or `module.name` stands for, or None."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_called(node.value, function), node.attr, None)
    return None


def _is_ours(raised: ast.expr, function: FunctionType) -> bool:
    """Say whether an error of ours is raised, by itself or by what makes one."""
    called = _called(raised.func if isinstance(raised, ast.Call) else raised, function)
    if isinstance(called, type):
        return issubclass(called, SparselthError)
    return called is unknown_name or getattr(called, "__annotations__", {}).get("return") in (
        SparselthError,
        "SparselthError",
    )


def test_errors_are_found_where_they_are_raised():
    assert raises(ops.masked_conv2d, 1)
    assert raises(ops.use_choice, 2)  # by what checks the name
    assert not raises(ops.clear_choices, 2)


@pytest.mark.parametrize("name", CALLED)
def test_an_error_that_is_raised_is_named(name):
    thing = CALLED[name]
    makers = ("__init__", "__post_init__")
    made = [vars(thing).get(m) for m in makers] if isinstance(thing, type) else [thing]
    by = [raises(f, 2) for f in made if isinstance(f, FunctionType) and is_ours(f)]
    said = re.search(r"SparselthError|CheckpointError", text_of(thing))
    assert said or not any(by), f"{name} does not say that it raises SparselthError ({by})"


# --- the ops ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ALL_SCHEMAS)
def test_every_op_is_described(op):
    schema, what, *rest = describe(op).split("\n\n")
    assert schema.startswith(f"sparselth::{op}(")
    assert re.fullmatch(r"[A-Z].*\.", what)
    text = "\n".join(rest)
    names = [argument.name for argument in getattr(OPS, op).default._schema.arguments]
    missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert not missing, f"{op} does not say what {', '.join(missing)} are"
    assert "Returns " in text or op == "masked_conv2d_relu"
    assert "Raises SparselthError" in text


def test_an_op_that_is_none_is_not_described():
    with pytest.raises(SparselthError, match="did you mean 'masked_conv2d'"):
        describe("masked_conv2")
