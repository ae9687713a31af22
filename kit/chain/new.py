"""`python -m kit new`: a params file for a model and problems of the user's own, with what can be seen of them filled in."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from kit.chain import plan
from kit.data import contamination, problems
from kit.rollout import models
from kit.runs import files
from kit.settings import HELD_OUT, HOME, KitError, family_of, load, window_of
from kit.settings.schema import NAME

TEXT = """\
# yaml-language-server: $schema=schema.json
# {name}: {model} pruned on problems of its own. What is not here has its default (schema.json; editors complete keys).
extends: shared/{family}.yaml  # the prompts; there are plain, deepseek and qwq
model: {{source: {source}, dtype: {dtype}}}
data:
  train: train
  validation: {validation}  # checkpoints are chosen on it{held}
  evaluation: [test]
  files: {files}  # {counts} problems
  prompt_cap: {prompt_cap}  # tokens; longer training prompts are dropped
  near_duplicate: {alike}
training:
  {{prompts_per_step: {prompts}, responses_per_prompt: 16, learning_rate: {rate}, steps: {steps}, checkpoint_every: {every}}}
evaluation: {{samples: 16, max_new_tokens: {longest}}}  # responses to each problem; longer ones are cut
schedules: {{iterative: {{limits: {limits}}}}}  # tokens, a round each; notebook 02 says what they cut"""


def new(
    name: str, model: str, train: Path, test: Path, validation: Path | None, limits: Sequence[int] | None, steps: int
) -> None:
    """Write params/NAME.yaml for a model and problems of your own.

    KitError where the name is taken, the model or a file cannot be read, or the result is not a params file."""
    import torch

    name = name.removesuffix(".yaml")
    path, folder = HOME / "params" / f"{name}.yaml", Path(model).expanduser()
    if not model.strip():
        raise KitError("--model is empty; name a folder, or a hub id")
    if folder.is_dir():
        models.fetch(folder)  # its weights are whole
    if not re.fullmatch(NAME, name) or path.exists():
        raise KitError(f"params/{name}.yaml: {'is there already' if path.exists() else 'not a name'}; choose another one, of "
                       "letters, digits, - _ and .")
    given = {role: file for role, file in (("train", train), ("test", test), ("validation", validation)) if file}
    for role, file in given.items():
        if not file.exists():
            raise KitError(f"--{role} {file}: no such file")
    found = {role: problems.read(file) for role, file in given.items()}
    count = {role: len(rows) for role, rows in found.items()}
    held = 0 if validation else max(1, min(60, count["train"] // 10))
    prompt_cap = min(768, window_of(model) // 2)
    longest = min(32000, window_of(model) - prompt_cap)
    dropped, alike = _alike(found)
    if (left := count["train"] - held - dropped) < 1:
        raise KitError(f"--train {train}: no problem is left to train on: of {count['train']}, {dropped} are also in the other "
                       f"files, and {held} are held out to choose checkpoints on")
    limits = limits or ([4000, 3000, 2000] if longest >= 8000 else [longest // 2, longest * 3 // 8, longest // 4])
    # A learning rate to begin with, by the size of the weights: the paper's for billions of parameters, else more.
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 1e10
    text = TEXT.format(
        name=name, model=model, family=family_of(model), source=json.dumps(_shown(folder) if folder.is_dir() else model),
        dtype="bfloat16" if torch.cuda.is_available() else "float32", validation="validation" if validation else HELD_OUT,
        held=": a tenth of the others, at most 60" if held else "", counts=" and ".join(map(str, count.values())),
        files=json.dumps({role: _shown(file) for role, file in given.items()}), prompt_cap=prompt_cap, longest=longest,
        rate="1e-6" if size > 1e9 else "1e-5" if size > 1e8 else "3e-4", prompts=min(128, left), steps=steps,
        every=max(1, steps // 9), alike=alike, limits=json.dumps(list(limits)))
    files.write_text(path, text + "\n")
    try:
        config = load(path)
        if folder.is_dir():
            plan.sizes_of(config)
    except KitError:
        path.unlink()
        raise
    shown = path.relative_to(HOME)
    print(f"{shown}: written; look at it, then: python -m kit plan {shown}, and make reproduce PARAMS={shown}")


def _shown(path: Path) -> str:
    """A path as a params file says it: from the project's folder where it lies in it."""
    whole = path.expanduser().resolve()
    return str(whole.relative_to(HOME)) if whole.is_relative_to(HOME) else str(whole)


def _alike(found: dict[str, list[problems.Problem]]) -> tuple[int, str]:
    """How many training problems are dropped, and `data.near_duplicate` for these sets: where all problems follow patterns, only
    equal ones are duplicates."""
    others = [(role, p) for role, rows in found.items() if role != "train" for p in rows]
    equal, near = (contamination.overlaps(found["train"], others, least).train_id.nunique() for least in (1, 0.5))
    if near <= len(found["train"]) / 10:
        return near, f"0.5  # overlap with a held-out problem at which one is dropped: {near} of these; null keeps all"
    return equal, (f"1  # only equal problems are dropped, {equal}: these are of a pattern, and at the usual 0.5 it would be "
                   f"{near}")
