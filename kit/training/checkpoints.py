"""Checkpoints and the disk: room for the next one, those that a cut-off write spoilt, and what need not be kept.

A checkpoint is `checkpoint-<step>/` with the model in safetensors, what a resume needs (optimizer, scheduler, random states,
written by torch) and trainer_state.json, which is written last. When a round has made its choice the resume files go, and with
`keep_checkpoints: selected` the weights of the others too; their folders stay, so that what was validated can still be seen.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kit.rollout import models
from kit.runs import catalog, paths
from kit.settings import Config, KitError

# Optimizer, scheduler, random states, training_args: torch's own files, and the folders of FSDP and DeepSpeed.
RESUME = ("*.pt", "*.pth", "*.bin", "optimizer_*", "global_step*")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
RESERVE = 64 << 20  # bytes left free for logs and tables


def spoilt(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None. A file can be cut off although the trainer had written it: a full
    disk, or a machine that lost power before the system wrote it out."""
    for file in {checkpoint / "trainer_state.json", *checkpoint.glob("*config.json")}:
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{file.name} is missing or cut off"
    for file in checkpoint.glob("*.safetensors"):
        try:
            models.check_safetensors(file)
        except KitError:
            return f"{file.name} is cut off or overwritten"
    for file in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:  # torch writes zip archives, whose table comes last
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut off"
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


def room_check(folder: Path) -> Any:
    """A trainer callback that refuses to begin a checkpoint for which the disk has no room, and drops older resume files.

    What one takes: as much as the last one did, or the weights and two numbers (Adam) for each that is trained.
    """
    from transformers import TrainerCallback

    class RoomCheck(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if not (control.should_save and state.is_world_process_zero):
                return
            folder.mkdir(parents=True, exist_ok=True)
            guess = sum(p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in model.parameters())
            last = [sum(f.stat().st_size for f in c.rglob("*") if f.is_file()) for c in folder.glob("checkpoint-*")]
            needed, free = max(guess, *last, 0), shutil.disk_usage(folder).free
            if free < needed + RESERVE:
                raise KitError(f"{folder}: checkpoint-{state.global_step} needs {needed / 2**20:.0f} MiB, but {free / 2**20:.0f} "
                               "are free on this disk; make room and run this again, it goes on from the last checkpoint")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:  # a resume starts from the last checkpoint, or the one before if that is spoilt
                for older in catalog.checkpoints(folder)[:-2]:
                    drop(older, RESUME)

    return RoomCheck()


def drop(checkpoint: Path, patterns: Iterable[str]) -> None:
    for found in [found for pattern in patterns for found in checkpoint.glob(pattern)]:
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)


def thin(checkpoints: Iterable[Path], selected: str, keep: str) -> None:
    """What a round that has made its choice need not keep: resume files, and with "selected" the weights of the others.

    `selected` is the folder of the model that was chosen: a checkpoint, or its `merged/`.
    """
    for checkpoint in checkpoints:
        drop(checkpoint, RESUME)
        if keep == "selected" and not Path(selected).is_relative_to(checkpoint):
            drop(checkpoint, (*WEIGHTS, "merged"))


def merge_adapters(config: Config, schedule: str, round: int) -> None:
    """Make whole models of a LoRA round's checkpoints, in float32, in their `merged/` folders; nothing in other rounds.

    Not in several training processes, which may hold weights in shards.
    """
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
