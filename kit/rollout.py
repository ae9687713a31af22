"""`Rollout` records and the engines that make them; one line per problem, written as they come, resumed where torn.

A rollout file is JSON lines, a superset of the official log format (FACTS 2): the question's fields plus `answer`,
`model_answer` (a list of responses) and `model_answer_length` (tokens, one per response); ours adds `id`, `core` and
`finished` (false: the response ran into the token cap, i.e. it is truncated).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from kit.config import Config, KitError
from kit.problems import Problem
from kit.prompts import load_tokenizer


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


@dataclass(frozen=True)
class Rollout:
    """All responses to one problem."""

    id: str
    question: str
    answer: str
    core: int | None
    model_answer: list[str]
    model_answer_length: list[int]
    finished: list[bool]


class Engine(Protocol):
    """Anything that can answer prompts; `batch_size` is how many responses it works on at once."""

    batch_size: int

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[list[Response]]:
        """`sampling.samples` responses for each prompt (token ids), in order; the same seed gives the same ones."""
        ...


class TransformersEngine:
    """`generate` of transformers on whatever device there is. Raises KitError when `source` is not a model."""

    def __init__(self, source: str | Path, config: Config, tokenizer: Any = None) -> None:
        import torch

        torch.set_num_threads(config.threads)
        self.tokenizer = tokenizer or load_tokenizer(source, config)
        self.model = load_model(source, config).eval()
        self.batch_size = config.evaluation.batch_size

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[list[Response]]:
        import torch
        from transformers import GenerationConfig

        torch.manual_seed(seed)
        tok, n = self.tokenizer, sampling.samples
        batch = tok.pad({"input_ids": list(prompts)}, return_tensors="pt").to(self.model.device)
        greedy = sampling.temperature == 0
        choice = {} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        settings = GenerationConfig(
            do_sample=not greedy, max_new_tokens=sampling.max_new_tokens, num_return_sequences=n,
            pad_token_id=tok.pad_token_id, eos_token_id=list(end_tokens(self.model, tok)), **choice,
        )
        with torch.inference_mode():
            output = self.model.generate(**batch, generation_config=settings)
        ends = end_tokens(self.model, tok)
        rows = [as_response(ids, ends, tok) for ids in output[:, batch["input_ids"].shape[1]:].tolist()]
        return [rows[i : i + n] for i in range(0, len(rows), n)]


def load_model(source: str | Path, config: Config) -> Any:
    """A causal language model from a folder or hub id: safetensors only, no remote code unless params allow it."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=config.model.revision, use_safetensors=True, dtype=getattr(torch, config.model.dtype),
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: not a model that can be loaded ({str(error).splitlines()[0]})") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Every token id that ends a response: a secondary EOS is a finish, not a truncation."""
    ids = model.generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return {i for i in (*listed, tokenizer.eos_token_id) if i is not None}


def as_response(ids: list[int], ends: set[int], tokenizer: Any) -> Response:
    """Cut padding off after the first end token; length counts the end token."""
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[: stop + 1]
    return Response(tokenizer.decode(kept, skip_special_tokens=True), len(kept), stop is not None)


def collect(
    engine: Engine,
    problems: Sequence[Problem],
    encode: Callable[[Problem], list[int]],
    sampling: Sampling,
    path: Path,
    seed: int,
    progress: str = "",
) -> list[Rollout]:
    """Responses for all problems, from `path` where they are already there; new ones are appended as they come.

    Problems are worked on in fixed chunks, each with a seed of its own, so an interrupted collection ends with the
    same responses as an undisturbed one.
    """
    from tqdm.auto import tqdm

    _drop_torn_line(path)
    done = {r.id: r for r in read(path)} if path.exists() else {}
    known = {p.id: p for p in problems}
    for r in done.values():
        if r.id not in known or r.question != known[r.id].question or len(r.model_answer) != sampling.samples:
            raise KitError(f"{path}: holds rollouts of other problems or another number of samples; move it away first")
    path.parent.mkdir(parents=True, exist_ok=True)
    size = max(1, engine.batch_size // sampling.samples)
    tokens, started = 0, time.monotonic()
    with path.open("a", encoding="utf-8") as file, tqdm(total=len(problems), desc=progress, initial=len(done)) as bar:
        for chunk in (problems[i : i + size] for i in range(0, len(problems), size)):
            if all(p.id in done for p in chunk):
                continue
            digest = hashlib.sha256(f"{seed} {[p.id for p in chunk]}".encode()).digest()
            answers = engine.generate([encode(p) for p in chunk], sampling, int.from_bytes(digest[:4], "big"))
            for problem, responses in zip(chunk, answers, strict=True):
                if problem.id in done:
                    continue
                done[problem.id] = record(problem, responses)
                file.write(json.dumps(asdict(done[problem.id]), ensure_ascii=False) + "\n")
                bar.update()
                tokens += sum(r.length for r in responses)
            file.flush()
            written = [r for p in problems if (r := done.get(p.id))]
            lengths = [n for r in written for n in r.model_answer_length]
            cut = sum(not f for r in written for f in r.finished) / len(lengths)
            rate = tokens / (time.monotonic() - started)
            bar.set_postfix_str(f"length {sum(lengths) / len(lengths):.0f}, truncated {cut:.1%}, {rate:.0f} tokens/s")
    return [done[p.id] for p in problems]


def complete(path: Path, problems: Sequence[Problem], sampling: Sampling) -> list[Rollout] | None:
    """The rollouts of `path` if it holds all that are asked for, in the order of the problems; else None."""
    if not path.is_file() or not path.read_bytes().endswith(b"\n"):
        return None
    done = {r.id: r for r in read(path)}
    if set(done) != {p.id for p in problems} or any(len(r.model_answer) != sampling.samples for r in done.values()):
        return None
    return [done[p.id] for p in problems] if all(done[p.id].question == p.question for p in problems) else None


def digest(rollouts: Iterable[Rollout]) -> str:
    """A hash of all that is graded and counted in these rollouts."""
    found = hashlib.sha256()
    for r in rollouts:
        found.update(json.dumps(asdict(r), sort_keys=True).encode())
    return found.hexdigest()[:16]


def record(problem: Problem, responses: Sequence[Response]) -> Rollout:
    """One line of a rollout file."""
    return Rollout(
        problem.id, problem.question, problem.answer, problem.core,
        [r.text for r in responses], [r.length for r in responses], [r.finished for r in responses],
    )


def read(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file. A bad line is a KitError, and the file is left as it is."""
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            yield Rollout(**{name: fields[name] for name in Rollout.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            raise KitError(f"{path} line {number}: not a rollout record") from None


def _drop_torn_line(path: Path) -> None:
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
