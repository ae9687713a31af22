"""What a params file may leave out: the run's name, prompts, a validation set, budgets, since something else in it tells.

It is filled in before the file is checked, so the manifest of a run has it written out.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

_KIT = Path(__file__).resolve().parents[1]
ROOT = _KIT.parent if (_KIT.parent / "params" / "laptop.yaml").is_file() else _KIT  # has params/, notebooks/; _KIT: installed
# It has results/, cache/ and data/. Kernels and processes that the kit starts run elsewhere, and get it from the environment.
HOME = ROOT if ROOT != _KIT else Path(os.environ.setdefault("KIT_HOME", os.getcwd()))
HELD_OUT = "held-out"  # the validation set where none is named: a part of the training set (kit.data.problems)
WINDOW = 32768  # tokens, of the paper's models
BUDGETS = (500, 1000, 2000, 4000, 8000)  # of the official code
# Family: what a model's name has in it, and what its chat template.
FAMILIES = {"deepseek": (("deepseek-r1", "deepscaler"), "<｜Assistant｜>"), "qwq": (("qwq",), "<think>")}


def folder_of(source: str) -> Path:
    """A model's folder: as given, or as seen from the project (notebooks run in their own folder); it need not be there."""
    given = Path(source).expanduser()
    return given if given.is_dir() or not source.strip() else HOME / given


def family_of(source: str) -> str:
    """The file in params/shared with a model's prompts, without `.yaml`: by its name or chat template; else `plain`."""
    folder, name = folder_of(source), source.lower()
    files = [file for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json") if file.is_file()]
    template = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    by_name = [family for family, (parts, _) in FAMILIES.items() if any(part in name for part in parts)]
    return next(iter(by_name + [family for family, (_, sign) in FAMILIES.items() if sign in template]), "plain")


def told_window(source: str) -> int | None:
    """Tokens of prompt and response that a model can take, by the config.json of its folder; None where that does not say."""
    config = folder_of(source) / "config.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(config.read_text(encoding="utf-8"))["max_position_embeddings"])
    return None


def window_of(source: str) -> int:
    """The same, at most that of the paper's models, which is also taken where nothing tells."""
    return min(told_window(source) or WINDOW, WINDOW)


def filled(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The table of a params file with what it leaves out; for the prompts `extends` names their file."""
    whole, names = {"run": path.stem, **table}, ("model", "data", "evaluation", "forcing")
    if not table.get("schedules") or any(name in table and not isinstance(table[name], dict) for name in names):
        return whole
    model, data, evaluation, forcing = parts = [{**table.get(name, {})} for name in names]
    if isinstance(source := model.get("source"), str) and (window := window_of(source)) < WINDOW:
        data.setdefault("prompt_cap", min(768, window // 2))
        evaluation.setdefault("max_new_tokens", window - min(768, window // 2))
    if data.get("train") and not data.get("validation"):
        data["validation"] = HELD_OUT
    if "budgets" not in forcing and isinstance(longest := evaluation.get("max_new_tokens"), int) and longest > 8:
        small = tuple(longest // n for n in (8, 4, 2))
        forcing["budgets"] = list(small if longest <= 2 * BUDGETS[0] else (b for b in BUDGETS if b < longest))
    whole |= {name: part for name, part in zip(names, parts, strict=True) if part}
    if "prompts" not in table and isinstance(source, str):
        whole["extends"] = f"shared/{family_of(source)}.yaml"
    return whole
