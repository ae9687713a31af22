"""`params/*.yaml` -> one frozen, typed `Config`; anything unknown or mistyped is refused by file, key and remedy.

A params file may say `extends: other.yaml` (a path beside it, or a list of them): its own keys are laid over the other
file's, and a later one's over an earlier's, table by table, so shared settings are written once. `load` looks at
everything before it complains, and complains once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from kit.settings import checks
from kit.settings.schema import Config, KitError

ROOT = Path(__file__).resolve().parents[2]


# --- reading ----------------------------------------------------------------------------------------------------------


def load(params_file: str | Path) -> Config:
    """Read, merge and check a params file. Raises KitError with every problem that it has."""
    path = find(params_file)
    table = {**_merged(path, ()), "file": os.path.relpath(path, ROOT)}  # `find` finds it again from anywhere
    return from_table(table, _shown(path))


def from_table(table: Mapping[str, Any], shown: str) -> Config:
    """Settings as a table, checked; KitError with every problem: of types and names, and of what the other keys say."""
    problems: list[str] = []
    config = _build(Config, table, "", problems)
    broken = [match[1] for p in problems if (match := re.search(r"`([^`]+)`", p))]
    if config is None:  # look at the keys that are fine as well
        config = _build(Config, _without(table, broken), "", [])
    if config is not None:
        words = {key.split(".")[-1].split("[")[0] for key in broken}
        problems += [p for p in checks.problems_of(config) if not words & set(re.findall(r"\w+", p))]
    if problems:
        raise KitError("; ".join(f"{shown}: {p}" for p in problems))
    return config


def _without(table: Mapping[str, Any], keys: list[str], where: str = "") -> dict[str, Any]:
    """A table without these dotted keys."""
    kept = {k: v for k, v in table.items() if not any(key.split("[")[0] == f"{where}{k}" for key in keys)}
    return {k: _without(v, keys, f"{where}{k}.") if isinstance(v, Mapping) else v for k, v in kept.items()}


def find(params_file: str | Path) -> Path:
    """The params file as given, or relative to the project's root (notebooks run in their own folder)."""
    given = Path(params_file)
    for path in (given, ROOT / given):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(f"params/{p.name}" for p in (ROOT / "params").glob("*.yaml") if p.name != "published.yaml"))
    raise KitError(f"{params_file}: no such params file; there are {known}")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file as a table; KitError names the line that does not parse."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not UTF-8 text"
        raise KitError(f"{_shown(path)}{where}: not readable as YAML ({reason})") from None
    if not isinstance(table, dict):
        raise KitError(f"{_shown(path)}: should be a table of `key: value` lines")
    return table


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1 that refuses a key written twice and reads 1e-6 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key.value}` twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    table = read_yaml(path)
    parents = table.pop("extends", None) or []
    whole: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        base = path.parent / str(parent)
        if not base.is_file():
            raise KitError(f"{_shown(path)}: extends: no file {parent} beside it")
        if base.resolve() in (*seen, path):
            raise KitError(f"{_shown(path)}: extends: {parent} leads back to this file")
        whole = _laid_over(whole, _merged(base.resolve(), (*seen, path)))
    return _laid_over(whole, table)


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; `schedules` is replaced whole, since a run is a choice of schedules."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "schedules"
        merged[key] = _laid_over(base[key], value) if both else value
    return merged


def _build(cls: type, table: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """A dataclass from a table, by its type hints; what does not fit is added to `problems`."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, 1)
            allowed = f"did you mean `{close[0]}`?" if close else "allowed: " + ", ".join(h for h in hints if h != "file")
            problems.append(f"unknown key `{where}{key}`; {allowed}")
        else:
            values[key] = _fit(value, hints[key], f"{where}{key}", problems)
    for f in dataclasses.fields(cls):
        if f.name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            problems.append(f"`{where}{f.name}` is missing")
    return None if problems else cls(**values)


def _fit(value: Any, hint: Any, where: str, problems: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(hint, value, where + ".", problems)
    elif origin in (types.UnionType, typing.Union):
        return None if value is None else _fit(value, args[0], where, problems)
    elif origin is Literal:
        value = "off" if value is False and "off" in args else value  # YAML 1.1 reads a bare off as false
        if value in args:
            return value
        problems.append(f"`{where}` is {value!r}; should be one of {', '.join(map(str, args))}")
        return None
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_fit(v, args[0], f"{where}[{i}]", problems) for i, v in enumerate(value))
    elif origin is dict:
        if isinstance(value, dict):
            return {str(k): _fit(v, args[1], f"{where}.{k}", problems) for k, v in value.items()}
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list"}
    problems.append(f"`{where}` is {value!r}; should be {wanted.get(origin or hint, 'a table of keys')}")
    return None


# --- notebooks --------------------------------------------------------------------------------------------------------


def notebook(params_file: str, **parameters: Any) -> Config:
    """What a notebook's config cell calls: its own parameters by name; refuses any other that papermill injected.

    Papermill only warns about a parameter the notebook does not have; a misspelt one would silently do nothing. It
    injects a cell that begins with the comment `# Parameters`, which is still in the kernel's history here.
    """
    import ast

    from IPython import get_ipython

    shell = get_ipython()
    known = {"params_file", *parameters}
    for source in shell.user_ns.get("In", []) if shell else []:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                for target in getattr(node, "targets", []):
                    if target.id not in known:
                        close = difflib.get_close_matches(target.id, known, 1)
                        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known))}"
                        raise KitError(f"this notebook has no parameter {target.id}; {hint}")
    return load(params_file)
