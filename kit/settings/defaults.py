"""What a params file may leave out because something else in it tells: the run's name, prompts, a validation set, budgets.

They are filled in before the file is checked, so the manifest of a run has them written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELD_OUT = "held-out"  # the validation set where none is named: a part of the training set (kit.data.problems)
BUDGETS = (500, 1000, 2000, 4000, 8000)  # of the official code
NAMES = {"deepseek": ("deepseek-r1", "deepscaler"), "qwq": ("qwq",)}  # family: what a model's name has in it
TEMPLATES = {"deepseek": "<｜Assistant｜>", "qwq": "<think>"}  # family: what its chat template has in it


def family_of(source: str) -> str:
    """The file in params/shared with a model's prompts, without `.yaml`: by its name or chat template; else `plain`."""
    folder, name = Path(source).expanduser(), source.lower()
    files = [file for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json") if file.is_file()]
    template = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    by_name = [family for family, parts in NAMES.items() if any(part in name for part in parts)]
    return next(iter(by_name + [family for family, sign in TEMPLATES.items() if sign in template]), "plain")


def filled(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The table of a params file with what it leaves out; for the prompts `extends` names their file."""
    parts = ("model", "data", "evaluation")
    model, data, evaluation = (table[key] if isinstance(table.get(key), dict) else {} for key in parts)
    whole = {"run": path.stem, **table}
    if data.get("train") and not data.get("validation"):
        whole["data"] = {**data, "validation": HELD_OUT}
    forcing, longest = whole.get("forcing", {}), evaluation.get("max_new_tokens")
    if isinstance(forcing, dict) and "budgets" not in forcing and isinstance(longest, int) and longest > 8:
        small = [longest // n for n in (8, 4, 2)]
        whole["forcing"] = {**forcing, "budgets": small if longest <= 2 * BUDGETS[0] else [b for b in BUDGETS if b < longest]}
    if table.get("schedules") and "prompts" not in table and isinstance(model.get("source"), str):
        whole["extends"] = f"shared/{family_of(model['source'])}.yaml"
    return whole
