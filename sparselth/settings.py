"""Settings as frozen dataclasses: read from YAML, changed by name from text, numbers or lists."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .checks import check_mapping
from .errors import SparselthError
from .files import as_path

_Settings = TypeVar("_Settings")


def changed(settings: _Settings, values: Mapping[str, Any], owner: str) -> _Settings:
    """Return a copy of a dataclass with some fields set, as flags and YAML give them.

    owner: what errors call it, such as "a study".

    Raises `SparselthError` for a field that does not exist, naming the nearest one, or a value
    of the wrong kind.
    """
    check_mapping(f"what is changed of {owner}", values, "settings to values")
    fields = {field.name: _default(field) for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), fields, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(fields)}"
        raise SparselthError(f"{owner} has no setting '{unknown[0]}'; {hint}")
    converted = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):
            value = changed(getattr(settings, name), _mapping(name, value), name)
        else:
            value = _coerce(name, value, fields[name])
        converted[name] = value
    return dataclasses.replace(settings, **converted)  # type: ignore[type-var]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read settings from a YAML file.

    Raises `SparselthError` when it is not there or not a list of `setting: value` lines.
    """
    try:
        content = yaml.load(as_path(path, "a configuration").read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SparselthError(f"the configuration {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise SparselthError(
            f"the configuration {path} is not a list of 'setting: value' lines, such as "
            "'epochs: 10'"
        )
    return content


class _Loader(yaml.SafeLoader):
    """YAML as `safe_load` reads it, but a setting given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before what "<<" brings in is among them, which may be given anew.
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.YAMLError(f"'{key.value}' is there twice")
        return super().construct_mapping(node, deep=deep)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SparselthError(f"{name} got {value!r}, expected 'setting: value' lines below it")
    return value


def _coerce(name: str, value: Any, default: Any) -> Any:
    """Convert `value` to the type of the field's default; of an empty mapping, to any."""
    if isinstance(default, Mapping):
        found = dict(_mapping(name, value))
        if not default:
            return found
        wanted = next(iter(default.values()))
        return {key: _coerce(f"{name}, {key},", part, wanted) for key, part in found.items()}
    if isinstance(default, tuple):
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        parts = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(name, part, default[0]) for part in parts)
    wanted = type(default)
    try:
        if wanted is bool and not isinstance(value, bool):
            return {"true": True, "false": False}[str(value).lower()]
        converted = wanted(value)
        if wanted is float and not math.isfinite(converted):
            raise ValueError
        # int(2.5) would pass silently, and so would str of a list.
        if isinstance(value, (int, float)) and converted != value:
            raise ValueError
        if value is None or isinstance(value, (list, dict)):
            raise ValueError
        if isinstance(value, bool) and wanted is not bool:
            raise ValueError
    except (ValueError, TypeError, KeyError):
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise SparselthError(f"{name} got {value!r}, expected {kind[wanted]}") from None
    return converted
