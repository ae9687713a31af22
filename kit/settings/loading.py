"""`params/*.yaml` -> one frozen, typed `Config`; anything unknown or mistyped is refused by file, key and remedy.

A params file may say `extends: other.yaml` (beside it, else one of the kit's; or a list of them): its own keys are laid over
the other file's, and a later one's over an earlier's, table by table, so shared settings are written once. `load` looks at
everything before it complains, and complains once, in a line for each problem.
"""

import contextlib
import copy
import difflib
import functools
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML, YAMLError

from kit.settings import checks, defaults
from kit.settings.schema import FORMS, Config, KitError

ADAPTER = TypeAdapter(Config)
SHOULD = {"int_type": "be a whole number", "string_type": "be text", "bool_type": "be true or false", "tuple_type": "be a list",
          "dict_type": "be a table of keys", "dataclass_type": "be a table of keys"}  # where pydantic speaks JSON's language


def load(params_file: str | Path) -> Config:
    """Read, merge and check a params file. Raises KitError with every problem that it has."""
    path = find(params_file)
    table = defaults.filled(_merged(path, ()), path)
    if prompts := table.pop("extends", None):
        table = _laid_over(_merged(defaults.ROOT / "params" / prompts, ()), table)
    table["file"] = os.path.relpath(path, defaults.ROOT)  # `find` finds it again from anywhere
    return from_table(table, _shown(path))


def from_table(table: Mapping[str, Any], shown: str) -> Config:
    """Settings as a table, checked; KitError with every problem: of types and names, and of what the other keys say."""
    config, problems, broken = None, [], []
    try:
        config = _built(table)
    except ValidationError as error:
        found = [e for e in error.errors() if e["type"] != "too_short" or not e["input"]]  # else an entry of it is broken
        problems = [_told(e) for e in found]
        broken = [[part for part in e["loc"] if isinstance(part, str)] for e in found]  # paths of keys; a list is one key
        if not any(key[0] in ("schedules", "logs") for key in broken):  # else too much hangs on what is broken
            kept = copy.deepcopy(dict(table))
            for *path, last in broken:
                functools.reduce(lambda place, name: place.get(name, {}), path, kept).pop(last, None)
            with contextlib.suppress(ValidationError):  # look at the keys that are fine as well
                config = _built(kept)
    if config is not None:
        words = {key[-1] for key in broken}
        problems += [p for p in checks.problems_of(config) if not words & set(re.findall(r"\w+", p))]
    if config is None or problems:
        raise KitError(*(f"{shown}: {p}" for p in problems))
    return config


def _built(table: Mapping[str, Any]) -> Config:
    return ADAPTER.validate_json(json.dumps(table, default=str))  # strict, but JSON's lists are tuples


def _told(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a line: the key, its value, and what would be right."""
    path, value, kind = [part for part in error["loc"] if part != "[key]"], error["input"], error["type"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    if kind == "missing":
        return f"`{key}` is missing"
    if kind == "unexpected_keyword_argument":
        return f"unknown key `{key}`; {_meant(path[-1], _keys(path[:-1]))}"
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    is_ = "" if path[-1] in ("url", "key_variable") else f" is {shown};"  # somebody's key may stand there: it is not repeated
    own = FORMS.get(error.get("ctx", {}).get("pattern")) or SHOULD.get(kind)
    should = own or re.sub(r"^.*?should | after validation.*", "", error["msg"])
    return f"`{key}`{is_} should {should}"


def _keys(path: Sequence[str | int]) -> list[str]:
    """The keys that the table at `path` may have, by the schema."""
    whole = node = ADAPTER.json_schema()
    for part in path:
        named = {**node.get("patternProperties", {}), "": node.get("additionalProperties")}  # of a table with names of the user's
        node = node.get("properties", {}).get(part) or next(filter(None, named.values()))
        node = node.get("anyOf", [node])[0]  # without `or null`
        node = whole["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
    return [name for name in node["properties"] if name != "file"]


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean `{close[0]}`?" if close else f"there are {', '.join(known)}"


def find(params_file: str | Path) -> Path:
    """The params file as given, or relative to the project's root (notebooks run in their own folder)."""
    given = Path(params_file)
    for path in (given, defaults.ROOT / given):
        if path.is_file():
            return path.resolve()
    known = sorted(f"params/{p.name}" for p in (defaults.ROOT / "params").glob("*.yaml") if p.name != "published.yaml")
    if close := difflib.get_close_matches(f"params/{given.name}", known, 1, 0.8):
        raise KitError(f"{params_file}: no such params file; did you mean {close[0]}?")
    raise KitError(f"{params_file}: no such params file; there are {', '.join(known)}")


def _shown(path: Path) -> str:
    return str(path.relative_to(defaults.ROOT)) if path.is_relative_to(defaults.ROOT) else path.name


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML 1.2 file as a table; KitError names the line that does not parse."""
    try:
        table = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        json.dumps(table, default=str, ensure_ascii=False).encode()  # nothing that contains itself, no half characters
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise KitError(f"{_shown(path)}{where}: not readable as YAML ({reason})") from None
    if not isinstance(table, dict):
        raise KitError(f"{_shown(path)}: should be a table of `key: value` lines")
    return table


def yaml_text(table: Mapping[str, Any]) -> str:
    """A table as YAML 1.2, its keys in their order."""
    out, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 100
    yaml.dump(dict(table), out)
    return out.getvalue()


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    table = read_yaml(path)
    parents = table.pop("extends", None) or []
    whole: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        base = next((p for p in (path.parent / str(parent), defaults.ROOT / "params" / str(parent)) if p.is_file()), None)
        if base is None:
            raise KitError(f"{_shown(path)}: extends: no file {parent} beside it, or among the kit's params")
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


def schema_text() -> str:
    """The JSON schema of a params file. No key is missing in it: a file may extend others, or be there to be extended."""
    whole = ADAPTER.json_schema()
    for table in (whole, *whole["$defs"].values()):  # only a schedule is never laid over another one: it is whole where it stands
        table["required"] = [name for name in table.get("required", []) if table["title"] == "Schedule"]
    path = {"type": "string", "description": "path of a params file, from this one's folder"}
    del whole["properties"]["file"]
    whole["properties"]["extends"] = {"anyOf": [path, {"type": "array", "items": path}],
                                      "description": "params files that this one's keys are laid over, in their order"}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **whole}, indent=1, ensure_ascii=False) + "\n"


def notebook(params_file: str, **parameters: Any) -> Config:
    """What a notebook's config cell calls: its own parameters by name; refuses any other that papermill injected.

    Papermill only warns about a parameter the notebook does not have; a misspelt one would silently do nothing. It
    injects a cell that begins with the comment `# Parameters`, which is still in the kernel's history here.
    """
    from IPython import get_ipython

    def interrupted(shell: Any, kind: type, error: BaseException, *_: Any, **__: Any) -> None:  # in place of a long traceback
        told = "interrupted; what was finished is kept, run this cell again and it goes on from there"
        shell._showtraceback(kind, error, [told])

    shell, known = get_ipython(), ["params_file", *parameters]
    if shell:
        shell.set_custom_exc((KeyboardInterrupt,), interrupted)
    for source in shell.user_ns.get("In", []) if shell else []:
        for name in re.findall(r"^(\w+) = ", source, re.MULTILINE) if source.startswith("# Parameters\n") else []:
            if name not in known:
                raise KitError(f"this notebook has no parameter {name}; {_meant(name, known)}")
    config, schedule, round = load(str(params_file)), parameters.get("schedule", "base"), parameters.get("round", 1)
    if schedule not in (there := ("base", *config.schedules, *config.logs.models)):
        raise KitError(f"{config.file} has no schedule {schedule}; there are {', '.join(there)}")
    if type(round) is not int:
        raise KitError(f"`round` is {round!r}; should be a whole number (papermill: -p round 1)")
    return config
