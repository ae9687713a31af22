r"""The grader: what did a response answer, and is it the gold answer?

1. The reading `official` takes the last complete `\boxed{…}` (or `\fbox`) anywhere, also in unfinished thinking. A box
   inside a box is unwrapped; an unfinished box is none; an empty last box is "no answer".
2. Without any box: the last `<answer>…</answer>`, else what follows the last "answer is" / "Answer:" / "答案是", else a response
   that is nothing but an answer; all three only behind `</think>` or in a response that never thought. The last number of
   the last line counts only behind `</think>` or with `finished=True`; `finished=False` (cut off) gets complete boxes only.
3. The reading `strict` applies 1 and 2 to what follows the last `</think>` only; no `</think>`, no answer.
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
are cached. The readings are those of the paper (arXiv 2504.01296) and its official code, which grades the last box; that code
takes the last number of any response without a box, which pays a response for being cut off at a lucky place: hence rule 2.
"""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.reward import workers
from kit.reward.answers import MAX_LENGTH, NeedsParser, extract_answer, malformed, number, plain, same, tidy

CACHE = 50_000  # verdicts kept, by (gold, answer)
TIMEOUT_SHARE = 0.001  # a larger share of timeouts is a warning
VERDICTS = ("correct", "wrong", "no answer", "timeout", "unparseable gold")
READINGS = ("official", "strict")

_cache: dict[tuple[str, str], str] = {}
_cache_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Grade:
    """One response's verdict (one of VERDICTS), and the answer it was given for: as written, its first 2000 characters."""

    verdict: str
    answer: str = ""

    @property
    def correct(self) -> bool:
        return self.verdict == "correct"


def grade(response: str, gold: object, reading: str = "official", **options: object) -> Grade:
    """The verdict on one response. `gold` and the options are those of `grade_many`."""
    return grade_many([response], [gold], reading, **options)[0]  # type: ignore[arg-type]


def grade_many(
    responses: Sequence[str],
    golds: Sequence[object],
    reading: str = "official",
    multiple: str = "first",
    ids: Sequence[object] | None = None,
    finished: Sequence[bool | None] | bool | None = None,
) -> list[Grade]:
    """The verdicts on many responses, in order.

    Args:
        responses: texts of the generated part, thinking included.
        golds: for each response a text, a number, or a list of them (OlympiadBench).
        reading: "official" or "strict", see the module's docstring.
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
    count = len(responses)
    ends = [finished] * count if finished is None or isinstance(finished, bool) else finished
    for name, values in (("golds", golds), ("ids", ids), ("finished", ends)):
        if values is not None and len(values) != count:
            raise ValueError(f"{count} responses but {len(values)} {name}")

    keys = [gold if isinstance(gold, str) else (type(gold), str(gold)) for gold in golds]
    known = {key: _gold_text(gold, multiple) for key, gold in dict(zip(keys, golds, strict=True)).items()}
    found = [extract_answer(response, reading, end) for response, end in zip(responses, ends, strict=True)]
    pairs = [(known[key][0], answer) for key, answer in zip(keys, found, strict=True)]
    broken = {row: known[key][1] for row, key in enumerate(keys) if known[key][1]}
    verdicts = ["unparseable gold" if row in broken else _decide(*pair) for row, pair in enumerate(pairs)]
    asked = list(dict.fromkeys(pair for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict))
    told = dict(zip(asked, _ask(asked), strict=True)) if asked else {}
    verdicts = [verdict or told[pair] for pair, verdict in zip(pairs, verdicts, strict=True)]
    for row, verdict in enumerate(verdicts):
        if verdict == "unparseable gold":
            warnings.warn(_complaint(row, golds, ids, broken.get(row)), stacklevel=2)
    return [Grade(verdict, answer[:MAX_LENGTH]) for verdict, answer in zip(verdicts, found, strict=True)]


def check_golds(golds: Sequence[object], ids: Sequence[object] | None = None) -> list[str]:
    """One line for every gold answer that cannot be graded (or only by its own text): to be asked once, when a set is loaded."""
    texts = [_gold_text(gold, "first") for gold in golds]
    unsure = list(dict.fromkeys(text for text, error in texts if not error and number(tidy(text)) is None))
    states = dict(zip(unsure, workers.ask(workers.check, [(text,) for text in unsure]), strict=True)) if unsure else {}
    return [_complaint(row, golds, ids, error) for row, (text, error) in enumerate(texts)
            if error or states.get(text, "readable") != "readable"]  # fmt: skip


def _complaint(row: int, golds: Sequence[object], ids: Sequence[object] | None, error: str | None) -> str:
    name = f"row {row}" if ids is None else ids[row]
    return f"problem {name}: gold answer {str(golds[row])[:80]!r} is unparseable: {error or 'math-verify cannot read it'}"


def _decide(gold: str, answer: str) -> str:
    """The verdict where no parser is needed, or "" where one is."""
    if not answer or answer == gold:
        return "correct" if answer else "no answer"
    if answer.isdecimal() and gold.isdecimal() and answer.isascii() and gold.isascii():
        return "correct" if answer.lstrip("0") == gold.lstrip("0") else "wrong"
    verdict = _cache.get((gold, answer))
    if verdict is None:
        try:
            equal = len(answer) <= MAX_LENGTH and not malformed(answer) and same(gold, answer, plain)
            verdict = "correct" if equal else "wrong"
        except NeedsParser:
            return ""
        except RecursionError:  # thousands of = in a row
            verdict = "wrong"
        _remember({(gold, answer): verdict})
    return verdict


def _ask(pairs: list[tuple[str, str]]) -> list[str]:
    """The workers' verdicts; where one was stuck, the gold itself may be to blame."""
    verdicts = workers.ask(workers.judge, pairs)
    stuck = list(dict.fromkeys(gold for (gold, _), verdict in zip(pairs, verdicts, strict=True) if verdict == "timeout"))
    states = dict(zip(stuck, workers.ask(workers.check, [(gold,) for gold in stuck]), strict=True))
    told = {pair: verdict if states.get(pair[0], "readable") == "readable" else "unparseable gold"
            for pair, verdict in zip(pairs, verdicts, strict=True)}  # fmt: skip
    _remember(told)
    return list(told.values())


def _remember(verdicts: dict[tuple[str, str], str]) -> None:
    if _cache_lock.acquire(timeout=1):  # held for good only where a fork copied it in the middle of this
        try:
            if len(_cache) >= CACHE:
                _cache.clear()
            _cache.update({pair: verdict for pair, verdict in verdicts.items() if len(pair[1]) <= MAX_LENGTH})
        finally:
            _cache_lock.release()


def verdict_counts(grades: Iterable[Grade]) -> dict[str, int]:
    """How often each verdict was given, all five of them, in the order of VERDICTS."""
    counts = Counter(grade.verdict for grade in grades)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def warnings_about(grades: Sequence[Grade], ids: Sequence[object] | None = None) -> list[str]:
    """One line for too many timeouts (more than 0.1 %) and one for unparseable golds, with the problems' ids."""
    lines = []
    counts = verdict_counts(grades)
    if grades and counts["timeout"] / len(grades) > TIMEOUT_SHARE:
        share = counts["timeout"] / len(grades)
        lines.append(f"warning: {counts['timeout']} of {len(grades)} answers ({share:.2%}) ran into the grader's deadline")
    if counts["unparseable gold"]:
        rows = [row for row, grade in enumerate(grades) if grade.verdict == "unparseable gold"]
        names = list(dict.fromkeys(str(ids[row]) if ids is not None else f"row {row}" for row in rows))
        lines.append(f"warning: unparseable gold answers ({len(rows)} responses): {', '.join(names)}")
    return lines


def _gold_text(gold: object, multiple: str) -> tuple[str, str | None]:
    """(the gold answer as one text, what is wrong with it or None)."""
    if hasattr(gold, "tolist"):  # numpy, from a parquet file
        gold = gold.tolist()
    if isinstance(gold, list | tuple):
        if not gold:
            return "", "an empty list"
        texts = [_gold_text(part, multiple) for part in (gold if multiple == "all" else gold[:1])]
        return ", ".join(text for text, _ in texts), next((error for _, error in texts if error), None)
    if isinstance(gold, bool) or not isinstance(gold, str | numbers.Real):
        return "", f"a {type(gold).__name__}, not a text"
    if not isinstance(gold, str) and not math.isfinite(gold):
        return "", "not a number"
    text = str(gold).strip()
    if text.startswith('["') and text.endswith("]"):  # a JSON list as text
        with contextlib.suppress(ValueError):
            return _gold_text(json.loads(text), multiple)
    boxed = extract_answer(text) if "boxed" in text else ""
    return boxed or text, malformed(boxed or text)
