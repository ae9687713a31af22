"""What a stage was made from, as a flat table of name -> value, so that a change can be named and not only noticed.

- settings: by their dotted key, as in params;
- code: of the notebook its code cells, and of every module of the kit that it imports, directly or through others, a hash of what
  Python makes of it. Comments, docstrings, layout, the notebook's prose and its cell of parameters do not count;
- files: those that earlier stages wrote, by content. A stage redone with the same outcome redoes nothing after it.
"""

import ast
import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from kit.settings import Config

KIT = Path(__file__).parents[1]
# Folders and modules that change no number: whoever edits a figure must not lose a trained model. Settings count by value.
WITHOUT_EFFECT = ("settings/", "runs/", "report/", "chain/", "training/watch", "training/launch")
ALL_THE_SAME = ("settings/sets",)  # of those: which rows a set has
DRAWING = ("report/", "runs/catalog")  # but these count where figures are the result: catalog has the labels
_PARSING = threading.Lock()  # Python 3.11's parser loses count when two threads parse at once (SystemError)


def settings(config: Config) -> dict[str, Any]:
    """The settings by their dotted key, without those on which no result depends (`neutral` in settings/schema)."""
    return pd.json_normalize(TypeAdapter(Config).dump_python(config, mode="json")).to_dict("records")[0]


def code(notebook: Path, draws: bool = False) -> dict[str, str]:
    """The code that a notebook runs: `code: notebook` and `code: kit/<module>.py` -> hash. `draws`: figures are what it makes."""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    source = "\n".join("".join(c["source"]) for c in cells if "parameters" not in c["metadata"].get("tags", []))
    found: dict[str, str] = {}
    with _PARSING:
        tree = ast.parse(source)
        waiting = _imported(tree)
        while waiting:
            name = waiting.pop()
            if name not in found and (KIT / f"{name}.py").is_file() and (draws or not name.startswith("report/")):
                found[name], imported = _module(KIT / f"{name}.py")
                waiting |= imported
        digest = _hash(tree)
    counted = {f"code: kit/{name}.py": value for name, value in sorted(found.items())
               if not name.startswith(WITHOUT_EFFECT) or name in ALL_THE_SAME or draws and name.startswith(DRAWING)}
    return {f"code: {notebook.name}": digest, **counted}


@functools.cache
def _module(path: Path) -> tuple[str, frozenset[str]]:
    """(hash of a module without its docstrings, the kit's modules that it imports)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return _hash(tree), frozenset(_imported(tree))


def _imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kit"):
            place = "/".join(str(node.module).split(".")[1:])
            found |= {place, f"{place}/__init__", *(f"{place}/{alias.name}".strip("/") for alias in node.names)}
    return found


def _hash(tree: ast.AST) -> str:
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def files(found: Iterable[Path], root: Path, known: Mapping[str, list] | None = None) -> dict[str, list]:
    """Path below `root` -> [bytes, time of the last change, hash of the content]. What `known` has with the same size and time
    is not read again: weights can be many gigabytes."""
    table: dict[str, list] = {}
    for path in sorted(found):
        name, facts = path.relative_to(root).as_posix(), path.stat()
        stamp = [facts.st_size, facts.st_mtime_ns]
        table[name] = (known or {}).get(name, [])
        if table[name][:2] != stamp:
            with path.open("rb") as file:
                table[name] = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()[:16]]
    return table


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names whose values differ, added and removed ones too."""
    missing = object()
    return sorted(name for name in {*before, *now} if before.get(name, missing) != now.get(name, missing))


def told(before: Mapping[str, Any], now: Mapping[str, Any], makers: Mapping[str, str] | None = None) -> str:
    """What differs, in words, at most three; "" where nothing does. Of settings from what to what, of files the stage that made
    them (`makers`)."""
    def shown(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= 40 else text[:37] + "…"

    words: dict[str, None] = {}
    for name in differing(before, now):
        kind, _, rest = name.partition(": ")
        if makers and name in makers:
            words[f"what {makers[name]} made changed"] = None
        elif rest:
            words[f"{rest} changed" if name in before and name in now else f"{rest} is {'new' if name in now else 'gone'}"] = None
        else:
            words[f"{kind} is {shown(now.get(name))}, was {shown(before.get(name))}"] = None
    return ", ".join([*words][:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
