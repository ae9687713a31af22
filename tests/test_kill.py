"""The chain is killed at random moments and started again each time: it ends with the numbers of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, Chain, small_chain

from kit.chain import verify

STARTED = re.compile(r"^ *[\d:]+  \d+ of \d+  (\S+): (?:starts|continues|.*starts again|.*goes on)")


def moments(chain: Chain, count: int, rng: random.Random) -> list[tuple[str, float]]:
    """A random moment in each of `count` equal parts of an undisturbed chain: the stage that had started last, and seconds since
    then."""
    starts = [(0.0, "")] + [(t, match[1]) for t, line in chain.lines if (match := STARTED.match(line))]
    found, part = [], (chain.lines[-1][0] - 0.5) / count
    for k in range(count):
        moment = 0.5 + part * (k + rng.random())
        began, stage = max((s for s in starts if s[0] <= moment), key=lambda s: s[0])
        found.append((stage, moment - began))
    return found


def kill_at(chain: Chain, stage: str, offset: float) -> bool:
    """Start the chain and kill its process group `offset` seconds after it is at `stage` (again), or past it. False: it ended."""
    chain.start(runner=False)
    due = time.monotonic() + offset if not stage else None
    while chain.process.poll() is None and (due is None or time.monotonic() < due):
        said = chain.printed
        if due is None and re.search(rf"  {re.escape(stage)}: ", said):
            past = re.search(rf"  {re.escape(stage)}: (unchanged|done)", said)
            due = time.monotonic() + (0 if past else offset)
        time.sleep(0.05)
    alive = chain.process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(chain.process.pid, signal.SIGKILL)
    chain.end()
    return alive


def left_over(chain: Chain) -> list[str]:
    """Command lines of the processes that still belong to this chain: they have its results folder in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"KIT_RESULTS={chain.results}\0".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def killed_often(undisturbed: Chain, folder: Path, times: int, seed: int, settings: str = SMALL) -> None:
    chain = small_chain(folder, settings)
    for stage, offset in moments(undisturbed, times, random.Random(seed)):
        assert kill_at(chain, stage, offset) or stage == "06_figures", chain.printed[-2000:]
    until = time.monotonic() + 20  # kernels look for their parent once a second
    while left_over(chain) and time.monotonic() < until:
        time.sleep(0.2)
    assert left_over(chain) == []
    chain.start(runner=False)
    assert chain.end() == 0, chain.printed[-3000:]

    for name in ("main", "changes", "validation", "keywords"):
        ours, theirs = ((c.folder / "metrics" / f"{name}.csv").read_text() for c in (chain, undisturbed))
        assert ours == theirs, name
    differences, cells = verify.verify(chain.folder)
    assert differences == [] and cells > 1000
    kept = {name for name in files_of(chain.folder) if not name.startswith("replaced")}
    assert kept == files_of(undisturbed.folder), "a file too many, or too few"
    assert left_over(chain) == []
    left = files_of(chain.results / "tmp") - files_of(undisturbed.results / "tmp")
    assert left == set(), "something is left in the system's temporary folder"


@pytest.mark.slow
def test_a_number_that_does_not_follow_from_the_rollouts_is_named(undisturbed: Chain, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(undisturbed.folder, tmp_path / "small"))
    file = folder / "metrics" / "main.csv"
    table = pd.read_csv(file, dtype=str)
    before, table.loc[0, "length"] = table.loc[0, "length"], "1"
    table.to_csv(file, index=False)
    differences, _ = verify.verify(folder)
    assert differences == [f"metrics/main.csv line 2, length: 1; from the rollouts {before}"]


@pytest.mark.slow
def test_killed_at_three_random_moments_it_ends_with_the_same_numbers(undisturbed: Chain, tmp_path: Path) -> None:
    killed_often(undisturbed, tmp_path, times=3, seed=1)


@pytest.mark.long
def test_killed_at_fifty_random_moments_it_ends_with_the_same_numbers(undisturbed: Chain, tmp_path: Path) -> None:
    killed_often(undisturbed, tmp_path, times=50, seed=2)


@pytest.mark.long
def test_the_whole_smoke_chain_killed_at_ten_random_moments_ends_with_the_same_numbers(tmp_path: Path) -> None:
    whole = "\nrun: small\n"
    (tmp_path / "once").mkdir()
    chain = small_chain(tmp_path / "once", whole)
    chain.start(runner=False)
    assert chain.end() == 0, chain.printed[-3000:]
    killed_often(chain, tmp_path, times=10, seed=3, settings=whole)
