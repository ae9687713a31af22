"""Checkpoints: those that a cut-off write spoilt, what need not be kept, and whole models of adapters.

A checkpoint is `checkpoint-<step>/` with the model in safetensors, what a resume needs (optimizer, scheduler, random states,
written by torch) and trainer_state.json, which is written last. When a round has made its choice the resume files go, and with
`keep_checkpoints: selected` the weights of the others too; their folders stay, so that what was validated can still be seen.
"""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from kit.rollout import models
from kit.runs import catalog, paths
from kit.settings import Config, KitError

# Optimizer, scheduler, random states, training_args: torch's own files, and the folders of FSDP and DeepSpeed.
RESUME = ("*.pt", "*.pth", "*.bin", "optimizer_*", "global_step*")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def spoilt(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None. A file can be cut off although the trainer had written it: a full
    disk, or a machine that lost power before the system wrote it out."""
    found = [file for kind in ("*config.json", "*.safetensors", "*.pt", "*.pth") for file in checkpoint.glob(kind)]
    for file in (checkpoint / "trainer_state.json", *found):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                models.check_safetensors(file)
            elif not zipfile.is_zipfile(file):  # torch writes zip archives, whose table comes last
                return f"{file.name} is cut off"
        except (OSError, ValueError, KitError):
            return f"{file.name} is missing, cut off or overwritten"
    return None


def last_step(folder: Path) -> int:
    """The step up to which a round is trained: that of its last checkpoint that is not spoilt; 0 without one."""
    return max((catalog.step_of(c) for c in catalog.checkpoints(folder) if spoilt(c) is None), default=0)


def resumable(folder: Path, tell: Callable[[str], object] = print) -> Path | None:
    """The last checkpoint of a round that training can go on from. Spoilt ones are named and passed over: their steps are done
    again."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=catalog.step_of, reverse=True):
        fault = spoilt(checkpoint)
        if fault is None and [*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*")]:
            return checkpoint
        if fault:
            tell(f"{checkpoint.name}: {fault}; training goes on from the one before it")
    return None


def drop(checkpoint: Path, patterns: Iterable[str]) -> None:
    """Delete the files and folders of a checkpoint that these patterns name."""
    for found in [found for pattern in patterns for found in checkpoint.glob(pattern)]:
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)


def thin(checkpoints: Iterable[Path], selected: str, keep: str) -> None:
    """What a round that has made its choice need not keep: resume files, and with "selected" the weights of the others.
    `selected` is the folder of the model that was chosen: a checkpoint, or its `merged/`."""
    for checkpoint in checkpoints:
        drop(checkpoint, RESUME)
        if keep == "selected" and not Path(selected).is_relative_to(checkpoint):
            drop(checkpoint, (*WEIGHTS, "merged"))


def merge_adapters(config: Config, schedule: str, round: int) -> None:
    """Make whole models of a LoRA round's checkpoints, in float32, in their `merged/` folders; nothing in other rounds. Not in
    several training processes, which may hold weights in shards."""
    for checkpoint in catalog.checkpoints(paths.of(config).models(schedule, round)):
        if (checkpoint / "merged").is_dir() or not (checkpoint / "adapter_model.safetensors").is_file():
            continue
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        start = models.fetch(catalog.start_of_round(config, schedule, round), config.model.revision)
        unfinished, trust = checkpoint / ".merged", config.model.trust_remote_code
        model = AutoModelForCausalLM.from_pretrained(start, dtype="float32", use_safetensors=True, trust_remote_code=trust)
        PeftModel.from_pretrained(model, str(checkpoint)).merge_and_unload().save_pretrained(unfinished)
        models.load_tokenizer(start, config).save_pretrained(unfinished)
        unfinished.rename(checkpoint / "merged")
