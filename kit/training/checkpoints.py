"""Checkpoints and the disk: room for the next one, those that a cut-off write spoilt, and what need not be kept.

A checkpoint is `checkpoint-<step>/` with the model in safetensors, what a resume needs (optimizer, scheduler, random states,
written by torch) and trainer_state.json, which is written last. When a round has made its choice the resume files go, and with
`keep_checkpoints: selected` the weights of the others too; their folders stay, so that what was validated can still be seen.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable
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
        size = file.stat().st_size
        with file.open("rb") as handle:
            header = int.from_bytes(handle.read(8), "little")
            try:
                entries = json.loads(handle.read(min(header, size)))
                end = max(e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__")
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"{file.name} is cut off or overwritten"
        if size != 8 + header + end:
            return f"{file.name} is cut off"
    for file in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:  # torch writes zip archives, whose table comes last
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut off"
    return None


def resumable(checkpoints: Iterable[Path], tell: Any = print) -> Path | None:
    """The last checkpoint that training can go on from. Spoilt ones are named and passed over: their steps are done again."""
    for checkpoint in reversed(list(checkpoints)):
        fault = spoilt(checkpoint)
        if fault is None and [*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*")]:
            return checkpoint
        if fault:
            tell(f"{checkpoint.name}: {fault}; training goes on from the one before it")
    return None


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_room(folder: Path, needed: int, what: str) -> None:
    """KitError when `needed` bytes and a little more do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise KitError(f"{folder}: {what} needs {_shown(needed)}, but {_shown(free)} are free on this disk; make room and run "
                       "this again, it goes on from the last checkpoint")


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size > 2**30 else f"{size / 2**20:.0f} MB"


def room_check(folder: Path) -> Any:
    """A trainer callback that refuses to begin a checkpoint for which there is no room.

    What one takes: as much as the last one did, or the weights and two numbers (Adam) for each that is trained.
    """
    from transformers import TrainerCallback

    class RoomCheck(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if control.should_save and state.is_world_process_zero:
                weights = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
                guess = sum(size * (3 if trained else 1) for size, trained in weights)
                last = max((size_of(p) for p in folder.glob("checkpoint-*")), default=0)
                folder.mkdir(parents=True, exist_ok=True)
                check_room(folder, max(guess, last), f"checkpoint-{state.global_step}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:  # a resume starts from the last checkpoint, or the one before if that is spoilt
                found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
                for older in found[:-2]:
                    drop(older, RESUME)

    return RoomCheck()


def drop(checkpoint: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for found in list(checkpoint.glob(pattern)):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def thin(checkpoints: Iterable[Path], selected: Path | None, keep: str) -> None:
    """What a round that has made its choice need not keep: resume files, and with "selected" the weights of the others."""
    for checkpoint in checkpoints:
        drop(checkpoint, RESUME)
        if keep == "selected" and checkpoint != selected:
            drop(checkpoint, WEIGHTS)
            shutil.rmtree(checkpoint / "merged", ignore_errors=True)  # of a LoRA round


def merge_adapters(config: Config, schedule: str, round: int) -> None:
    """Make whole models of a LoRA round's checkpoints, in float32, in their `merged/` folders; does nothing in other rounds.

    Not in the training processes, which may hold weights in shards.
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
