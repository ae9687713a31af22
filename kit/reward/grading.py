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

Numbers, words and simple algebra are decided here. The rest goes to worker processes (`kit.reward.grading_workers`, one per
core, started at the first need) with a memory limit and a deadline per answer; one that is stuck is killed and replaced.
Any thread, notebook or forked process may call; verdicts are cached. The readings are those of the paper (arXiv 2504.01296)
and its official code, which grades the last box; that code takes the last number of any response without a box, which
pays a response for being cut off at a lucky place, and is why rule 2 is narrower.
"""

from __future__ import annotations

import math
import numbers
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.reward.answers import MAX_LENGTH, malformed
from kit.reward.equality import decide_plainly
from kit.reward.extraction import extract_answer
from kit.reward.grading_workers import ask

CACHE = 50_000  # verdicts kept, by (gold, answer)
TIMEOUT_SHARE = 0.001  # a larger share of timeouts is a warning

VERDICTS = ("correct", "wrong", "no answer", "timeout", "unparseable gold")
READINGS = ("official", "strict")


@dataclass(frozen=True, slots=True)
class Grade:
    """One response's verdict (one of VERDICTS), and the answer it was given for.

    The answer is as it was written, its first 2000 characters; "" where there is none.
    """

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
        finished: whether each response ended by itself (True), was cut off at a token limit (False), or nobody
            knows (None). One value for all, or one for each.

    Raises ValueError on lists of different lengths or an unknown reading. Warns, once per problem, of a gold answer
    that cannot be parsed.
    """
    if reading not in READINGS:
        raise ValueError(f"reading is {reading!r}; known are {', '.join(READINGS)}")
    if multiple not in ("first", "all"):
        raise ValueError(f"multiple is {multiple!r}; known are first, all")
    if isinstance(responses, str) or isinstance(golds, str):
        raise ValueError("grade_many takes lists; grade takes one response and its gold answer")
    count = len(responses)
    ends = [finished] * count if finished is None or isinstance(finished, bool) else list(finished)
    for name, values in (("golds", golds), ("ids", ids), ("finished", ends)):
        if values is not None and len(values) != count:
            raise ValueError(f"{count} responses but {len(values)} {name}")

    grades: list[Grade | None] = [None] * count
    known: dict[object, tuple[str, str | None]] = {}
    broken: dict[int, str] = {}
    open_rows: dict[tuple[str, str], list[int]] = {}
    answers: list[str] = []
    for row in range(count):
        gold = golds[row]
        key = gold if isinstance(gold, str) else (type(gold), str(gold))
        if key not in known:
            known[key] = _gold_text(gold, multiple)
        text, error = known[key]
        answer = extract_answer(responses[row], reading, ends[row])
        shown = answer[:MAX_LENGTH]
        answers.append(shown)
        if error is not None:
            broken[row] = error
            grades[row] = Grade("unparseable gold", shown)
        elif not answer:
            grades[row] = _NO_ANSWER
        elif answer == text:
            grades[row] = Grade("correct", shown)
        elif answer.isdecimal() and text.isdecimal() and answer.isascii() and text.isascii():
            grades[row] = Grade("correct" if answer.lstrip("0") == text.lstrip("0") else "wrong", shown)
        else:
            pair = (text, answer)
            verdict = _cache.get(pair)
            if verdict is None and pair not in open_rows:
                decided = decide_plainly(text, answer, text in _parsed_golds)
                if decided is not None:
                    verdict = "correct" if decided else "wrong"
                    _remember([pair], [verdict])
            if verdict is None:
                open_rows.setdefault(pair, []).append(row)
            else:
                grades[row] = Grade(verdict, shown)
                if verdict == "unparseable gold":
                    broken[row] = "math-verify cannot read it"

    if open_rows:
        pairs = list(open_rows)
        verdicts, parsed_golds = ask(pairs)
        _remember(pairs, verdicts, parsed_golds)
        for pair, verdict in zip(pairs, verdicts, strict=True):
            for row in open_rows[pair]:
                grades[row] = Grade(verdict, answers[row])
                if verdict == "unparseable gold":
                    broken[row] = "math-verify cannot read it"
    for row, error in broken.items():
        name = ids[row] if ids is not None else f"row {row}"
        warnings.warn(f"problem {name}: gold answer {str(golds[row])[:80]!r} is unparseable: {error}", stacklevel=2)
    return grades  # type: ignore[return-value]


_NO_ANSWER = Grade("no answer")
_cache: dict[tuple[str, str], str] = {}
_parsed_golds: set[str] = set()
_cache_lock = threading.Lock()


def _remember(pairs: list[tuple[str, str]], verdicts: list[str], parsed_golds: Iterable[str] = ()) -> None:
    if any(len(answer) > MAX_LENGTH for _, answer in pairs):
        return
    if not _cache_lock.acquire(timeout=1):  # held for good only where a fork copied it in the middle of this
        return
    try:
        if len(_cache) >= CACHE:
            _cache.clear()
            _parsed_golds.clear()
        _cache.update(zip(pairs, verdicts, strict=True))
        _parsed_golds.update(parsed_golds)
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
    boxed = extract_answer(text) if "boxed" in text else ""
    return boxed or text, malformed(boxed or text)
