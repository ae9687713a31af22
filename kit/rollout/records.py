"""Responses to problems: the records that are kept of them, and how they are collected.

A rollout file has a JSON line per problem, written as it is done: a superset of the official log format (rollout/logs).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kit.data import sources
from kit.data.problems import Problem
from kit.settings import KitError


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. Lengths are tokens."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Response:
    """What the model wrote after the prompt; `finished` means that it ended by itself."""

    text: str
    length: int
    finished: bool
    ids: list[int] = field(default_factory=list, compare=False, repr=False)  # the tokens themselves, end token included


@dataclass(frozen=True)
class Rollout:
    """All responses to one problem: texts, lengths in tokens, and whether each ended by itself; None where a log does not say.
    The token ids are kept of those that will be cut: encoding a text again need not give the tokens that the model wrote."""

    id: str
    question: str
    answer: str
    core: int | None
    model_answer: list[str]
    model_answer_length: list[int | None]
    finished: list[bool | None]
    model_answer_ids: list[list[int]] | None = None
    verifier: str = ""  # as in Problem


Responses = Iterator[tuple[int, list[Response]]]  # (number of a prompt, the responses to it), as they come


class Engine(Protocol):
    """Anything that can answer prompts (rollout/engines). `batch_size`: how many responses it draws together, from the first of
    a call's seeds; None: each prompt is drawn by itself, from its own seed, so give it all there are."""

    tokenizer: Any
    batch_size: int | None

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> Responses:
        """`sampling.samples` responses to each prompt (token ids, of any lengths). The same seeds give the same responses."""

    def close(self) -> None:
        """Give back memory, processes and connections."""


def as_response(ids: list[int], ends: set[int], tokenizer: Any) -> Response:
    """Cut padding off after the first end token; length counts the end token."""
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[: stop + 1]
    return Response(tokenizer.decode(kept, skip_special_tokens=True), len(kept), stop is not None, kept)


def collect(
    start: Callable[[], Engine], problems: Sequence[Problem], encode: Callable[[Problem], list[int]], sampling: Sampling,
    path: Path, seed: int, title: str = "", keep_ids: int = 0,
) -> list[Rollout]:
    """Responses for all problems, from `path` where they are already there; new ones are appended as they come.

    `start` gives the engine, and is called when something is missing. Problems are drawn in fixed chunks or each by itself, as
    the engine does, with seeds that follow from their ids, so an interrupted collection ends with the same responses as an
    undisturbed one. `keep_ids`: of how many responses to each. KitError when `path` holds those of others.
    """
    from tqdm.auto import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # without a line that was torn by a stop
    done, questions = {r.id: r for r in read(path)} if path.exists() else {}, {p.id: p.question for p in problems}
    if any(questions.get(r.id) != r.question or len(r.model_answer) != sampling.samples for r in done.values()):
        raise KitError(f"{path}: holds rollouts of other problems or another number of samples; move it away first")
    if len(done) == len(problems):
        return [done[p.id] for p in problems]
    engine, made, tokens, cut = start(), 0, 0, 0
    size = engine.batch_size and max(1, engine.batch_size // sampling.samples)
    chunks = [problems[i : i + size] for i in range(0, len(problems), size)] if size else [
        [p for p in problems if p.id not in done]]
    with path.open("a", encoding="utf-8") as file, tqdm(total=len(problems), desc=title, initial=len(done), leave=False) as bar:
        for chunk in chunks:
            if all(p.id in done for p in chunk):
                continue
            groups = [[p.id for p in chunk] if size else [q.id] for q in chunk]
            seeds = [int.from_bytes(hashlib.sha256(f"{seed} {ids}".encode()).digest()[:4], "big") for ids in groups]
            with closing(engine.generate([encode(p) for p in chunk], sampling, seeds)) as answers:
                for p, responses in ((chunk[k], responses) for k, responses in answers):
                    if p.id not in done:
                        done[p.id] = record(p, responses, keep_ids)
                        file.write(as_line(done[p.id]))
                        file.flush()
                        bar.update()
                        made, tokens = made + len(responses), tokens + sum(r.length for r in responses)
                        cut += sum(not r.finished for r in responses)
                        bar.set_postfix_str(f"length {tokens / made:.0f}, truncated {cut / made:.1%}", refresh=False)
    return [done[p.id] for p in problems]


def record(problem: Problem, responses: Sequence[Response], keep_ids: int = 0) -> Rollout:
    """The responses to one problem as a record, with the token ids of the first `keep_ids`."""
    return Rollout(
        **vars(problem), model_answer=[r.text for r in responses], model_answer_length=[r.length for r in responses],
        finished=[r.finished for r in responses], model_answer_ids=[r.ids for r in responses[:keep_ids]] or None)


def as_line(rollout: Rollout) -> str:
    """A record as the line of a rollout file."""
    return json.dumps(vars(rollout), ensure_ascii=False) + "\n"


def read(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file. A missing file or a bad row is a KitError, and the file is left as it is."""
    if not path.is_file():
        raise KitError(f"{path}: not there yet; run notebooks/03_evaluate.ipynb first")
    for number, row in sources.json_lines(path, str(path)):
        try:
            yield Rollout(**row)
        except TypeError as error:  # a key too many or too few
            raise KitError(f"{path} row {number}: not a rollout record ({error})") from None
