r"""The grader: what did a response answer, and is it the gold answer?

1. The reading `official` takes the last complete `\boxed{…}` (or `\fbox`) anywhere, also in unfinished thinking; no box, no
   answer. A box inside a box is unwrapped; an unfinished box is none; an empty last box is "no answer".
2. The reading `last-number` is `official`, and without any box: the last `<answer>…</answer>`, else what follows the last
   "answer is" / "Answer:" / "答案是", else a response that is nothing but an answer; all three only behind `</think>` or in a
   response that never thought. The last number of the last line counts only behind `</think>` or with `finished=True`;
   `finished=False` (cut off) gets complete boxes only.
3. The reading `strict` applies 1 to what follows the last `</think>` only; no `</think>`, no answer.
4. Two answers are equal by value and by shape: `\frac12` is `0.5`, `(1,2)` is not `(2,1)`, `\{1,2\}` is `\{2,1\}`, `[1,2)`
   is not `(1,2)`, `x>3` is not `x\ge3` but is `(3,\infty)`; `x = 3` is `3`, `025` is `25`, and `5` is not `5.0001`: no
   tolerance anywhere. Units, `%` and `^\circ` may be missing on one side but must not differ (`10\%` is `10`, not `0.1`).
5. Verdicts: correct · wrong · no answer · timeout (the parser was stuck on it, or died) · unparseable gold (broken data).

>>> grade(r"<think>2+2… \boxed{5}? no.</think> It is \boxed{\frac{8}{2}}.", "4")
Grade(verdict='correct', answer='\\frac{8}{2}')
>>> grade(r"so \boxed{(1, 2)}", "(2,1)").verdict, grade(r"\boxed{2\sqrt3}", r"\sqrt{12}").verdict
('wrong', 'correct')
>>> grade(r"<think> maybe \boxed{7}", "7").verdict, grade(r"<think> maybe \boxed{7}", "7", reading="strict").verdict
('correct', 'no answer')
>>> [g.verdict for g in grade_many([r"\boxed{3}", "hm", r"\boxed{9^{9^{9^{9}}}}"], ["3", "3", "3"])]
['correct', 'no answer', 'timeout']

Numbers, words and shapes are decided in `kit.reward.answers`. What needs a parser goes to math-verify in worker processes
(`kit.reward.workers`) with a memory limit and a deadline per answer. Any thread, notebook or forked process may call; verdicts
are cached. `official` is what the paper's official code (arXiv 2504.01296) rewards, `strict` how its text can be read too, and
`last-number` is for models that do not box. That code also takes an unclosed box and "answer is 42", and forgives a factor of 100
and a relative 1e-4; here neither counts.
"""

from __future__ import annotations

import contextlib
import decimal
import json
import math
import numbers
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kit.reward import workers
from kit.reward.answers import MAX_LENGTH, NeedsParser, extract_answer, malformed, same

CACHE = 50_000  # verdicts kept, by (gold, answer)
TIMEOUT_SHARE = 0.001  # a larger share of timeouts is a warning
VERDICTS = ("correct", "wrong", "no answer", "timeout", "unparseable gold")
READINGS = ("official", "strict", "last-number")
_PROBE = r"\sqrt{10007}+\ln 17"  # an answer nobody has: compared with it, a gold must be read to its end
_told: dict[tuple[str, str], str] = {}  # what the workers said


@dataclass(frozen=True, slots=True)
class Grade:
    """One response's verdict (one of VERDICTS), and the answer it was given for: as written, its first 2000 characters."""

    verdict: str
    answer: str = ""

    @property
    def correct(self) -> bool:
        return self.verdict == "correct"


def grade(response: str, gold: object, reading: str = "last-number", **options: object) -> Grade:
    """The verdict on one response. `gold` and the options are those of `grade_many`."""
    return grade_many([response], [gold], reading, **options)[0]  # type: ignore[arg-type]


def grade_many(
    responses: Sequence[str], golds: Sequence[object], reading: str = "last-number", multiple: str = "first",
    ids: Sequence[object] | None = None, finished: Sequence[bool | None] | bool | None = None,
) -> list[Grade]:
    """The verdicts on many responses, in order.

    Args:
        responses: texts of the generated part, thinking included.
        golds: for each response a text, a number, or a list of them (OlympiadBench).
        reading: "official", "strict" or "last-number", see the module's docstring; a run has its own, training.reading.
        multiple: of a list, "first" grades the first element (the official code), "all" asks for all, in any order.
        ids: the problems' ids, to name those whose gold answer is broken; row numbers otherwise.
        finished: whether each response ended by itself (True), was cut off at a token limit (False), or nobody knows
            (None). One value for all, or one for each.

    Raises ValueError on lists of different lengths or an unknown reading. Warns of gold answers that cannot be parsed.
    """
    for name, value, values in (("reading", reading, READINGS), ("multiple", multiple, ("first", "all"))):
        if value not in values:
            raise ValueError(f"{name} is {value!r}; known are {', '.join(values)}")
    if isinstance(responses, str) or isinstance(golds, str):
        raise ValueError("grade_many takes lists; grade takes one response and its gold answer")
    ends = [finished] * len(responses) if finished is None or isinstance(finished, bool) else finished
    for name, given in (("golds", golds), ("ids", ids), ("finished", ends)):
        if given is not None and len(given) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(given)} {name}")

    keys = [gold if isinstance(gold, str) else (type(gold), str(gold)) for gold in golds]
    known = {key: _gold_text(gold, multiple) for key, gold in dict(zip(keys, golds, strict=True)).items()}
    found = [extract_answer(text, reading, end)[: MAX_LENGTH + 1] for text, end in zip(responses, ends, strict=True)]
    pairs = [(known[key][0], answer) for key, answer in zip(keys, found, strict=True)]
    verdicts = ["unparseable gold" if known[key][1] else _decide(*pair) for key, pair in zip(keys, pairs, strict=True)]
    told = _ask(pair for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict)
    verdicts = [verdict or told[pair] for pair, verdict in zip(pairs, verdicts, strict=True)]
    for row, verdict in enumerate(verdicts):
        if verdict == "unparseable gold":
            warnings.warn(_complaint(row, golds, ids, known[keys[row]][1]), stacklevel=2)
    return [Grade(verdict, answer[:MAX_LENGTH]) for verdict, answer in zip(verdicts, found, strict=True)]


def check_golds(golds: Sequence[object], ids: Sequence[object] | None = None) -> list[str]:
    """One line for every gold answer that cannot be graded (or only by its own text): to be asked once, when a set is loaded."""
    texts = [_gold_text(gold, "first") for gold in golds]
    states = [error or _decide(text, _PROBE) for text, error in texts]
    told = _ask((text, _PROBE) for (text, _), state in zip(texts, states, strict=True) if not state)
    states = [state or told[text, _PROBE] for (text, _), state in zip(texts, states, strict=True)]
    return [_complaint(row, golds, ids, texts[row][1]) for row, state in enumerate(states) if state != "wrong"]


def _complaint(row: int, golds: Sequence[object], ids: Sequence[object] | None, error: str | None) -> str:
    name = f"row {row}" if ids is None else ids[row]
    return f"problem {name}: gold answer {str(golds[row])[:80]!r} is unparseable: {error or 'math-verify cannot read it'}"


@lru_cache(maxsize=CACHE)
def _decide(gold: str, answer: str) -> str:
    """The verdict where no parser is needed, or "" where one is."""
    if not answer or answer == gold:
        return "correct" if answer else "no answer"
    if answer.isdecimal() and gold.isdecimal() and answer.isascii() and gold.isascii():
        return "correct" if answer.lstrip("0") == gold.lstrip("0") else "wrong"
    try:
        return "correct" if not malformed(answer) and same(gold, answer, None) else "wrong"
    except NeedsParser:
        return ""
    except RecursionError:  # thousands of = in a row
        return "wrong"


def _ask(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The workers' verdicts. Where one was stuck, the gold itself may be to blame."""
    told = {pair: _told.get(pair, "") for pair in pairs}
    new = [pair for pair, verdict in told.items() if not verdict]
    told.update(zip(new, workers.ask(new) if new else (), strict=True))  # without a question no pool is imported
    stuck = {pair: (pair[0], _PROBE) for pair, verdict in told.items() if verdict == "timeout" and pair[1] != _PROBE}
    if stuck:
        states = _ask(stuck.values())
        told.update({pair: "unparseable gold" for pair, probe in stuck.items() if states[probe] != "wrong"})
    if len(_told) > CACHE:
        _told.clear()
    _told.update(told)
    return told


def verdict_counts(grades: Iterable[Grade]) -> dict[str, int]:
    """How often each verdict was given, all five of them, in the order of VERDICTS."""
    counts = Counter(grade.verdict for grade in grades)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def warnings_about(grades: Sequence[Grade], ids: Sequence[object] | None = None) -> list[str]:
    """One line for too many timeouts (more than 0.1 %) and one for unparseable golds, with the problems' ids."""
    lines, late = [], verdict_counts(grades)["timeout"]
    if late > TIMEOUT_SHARE * len(grades):
        lines.append(f"warning: {late} of {len(grades)} answers ({late / len(grades):.2%}) ran into the grader's deadline")
    rows = [row for row, grade in enumerate(grades) if grade.verdict == "unparseable gold"]
    if rows:
        names = dict.fromkeys(f"row {row}" if ids is None else str(ids[row]) for row in rows)
        lines.append(f"warning: unparseable gold answers ({len(rows)} responses): {', '.join(names)}")
    return lines


def _gold_text(gold: object, multiple: str) -> tuple[str, str | None]:
    """(the gold answer as one text, what is wrong with it or None)."""
    if hasattr(gold, "tolist"):  # numpy, from a parquet file
        gold = gold.tolist()
    if isinstance(gold, str) and gold.startswith('["') and gold.endswith('"]'):  # a JSON list as text
        with contextlib.suppress(ValueError):
            gold = json.loads(gold)
    if isinstance(gold, list | tuple):
        texts = [_gold_text(part, multiple) for part in (gold if multiple == "all" else gold[:1])] or [("", "an empty list")]
        return ", ".join(text for text, _ in texts), next((error for _, error in texts if error), None)
    if isinstance(gold, bool) or not isinstance(gold, str | numbers.Real | decimal.Decimal):
        return "", f"a {type(gold).__name__}, not a text"
    if not isinstance(gold, str) and not math.isfinite(gold):
        return "", "not a number"
    text = str(gold).strip()
    text = extract_answer(text) or text if "boxed" in text else text
    return text, malformed(text)
