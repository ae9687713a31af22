r"""The grader: what did a response answer, and is it the gold answer?

1. The reading `official` takes the last complete `\boxed{…}` (or `\fbox`) anywhere, also in unfinished thinking. Of nested boxes
   the outermost counts; an empty last box is "no answer".
2. The reading `last-number` is `official`, and without any box: the last `<answer>…</answer>`, else what follows the last
   "answer is" / "Answer:" / "答案是", else a response that is nothing but an answer; all three only behind `</think>` or in a
   response that never thought. The last number of the last line counts only behind `</think>` or with `finished=True`.
3. The reading `strict` applies 1 to what follows the last `</think>` only; no `</think>`, no answer.
4. Two answers are equal by value and by shape: `\frac12` is `0.5`, `(1,2)` is not `(2,1)`, `\{1,2\}` is `\{2,1\}`, `[1,2)`
   is not `(1,2)`, `x>3` is not `x\ge3` but is `(3,\infty)`; `x = 3` is `3`, `025` is `25`, and `5` is not `5.0001`: no
   tolerance anywhere. Units, `%` and `^\circ` may be missing on one side but must not differ (`10\%` is `10`, not `0.1`).

>>> grade(r"<think>2+2… \boxed{5}? no.</think> It is \boxed{\frac{8}{2}}.", "4")
Grade(verdict='correct', answer='\\frac{8}{2}')
>>> grade(r"so \boxed{(1, 2)}", "(2,1)").verdict, grade(r"\boxed{2\sqrt3}", r"\sqrt{12}").verdict
('wrong', 'correct')
>>> grade(r"<think> maybe \boxed{7}", "7").verdict, grade(r"<think> maybe \boxed{7}", "7", reading="strict").verdict
('correct', 'no answer')
>>> [g.verdict for g in grade_many([r"\boxed{3}", "hm", r"\boxed{9^{9^{9^{9}}}}"], ["3", "3", "3"])]
['correct', 'no answer', 'timeout']

Any thread or forked process may call; verdicts are cached. `official` is what the paper's official code (arXiv 2504.01296)
rewards, but for an unclosed box, "answer is 42", a factor of 100 and a relative 1e-4, which count there. `strict` is how the
paper's text can be read too; `last-number` is for models that do not box.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from kit.reward import workers
from kit.reward.answers import MAX_LENGTH, Undecided, extract_answer, malformed, number, same

CACHE = 50_000  # verdicts kept
# "timeout": the parser was stuck on the answer, or died; "unparseable gold": broken data.
VERDICTS = ("correct", "wrong", "no answer", "timeout", "unparseable gold")
READINGS = ("official", "strict", "last-number")
_PROBE = r"\sqrt{10007}+\ln 17"  # an answer nobody has: compared with it, a gold must be read to its end
Asked = tuple[str, str, str]  # gold, answer, verifier
_known: dict[Asked, str] = {}


class Grade(NamedTuple):
    """One response's verdict (one of VERDICTS), and the answer it was given for: as written, its first 2000 characters."""

    verdict: str
    answer: str = ""

    @property
    def correct(self) -> bool:
        return self.verdict == "correct"


def grade(response: str, gold: object, reading: str = "last-number", finished: bool | None = None) -> Grade:
    """The verdict on one response; see `grade_many`."""
    return grade_many([response], [gold], reading, finished)[0]


def grade_many(
    responses: Sequence[str], golds: Sequence[object], reading: str = "last-number",
    finished: Sequence[bool | None] | bool | None = None, verifiers: Sequence[str] | None = None,
) -> list[Grade]:
    """The verdicts on many responses, in order.

    Args:
        responses: texts of the generated part, thinking included.
        golds: for each response a text, a number, or a list of them, whose first counts (as in the official code).
        reading: one of READINGS, see above; a run has its own, training.reading.
        finished: for all or for each: ended by itself (True), was cut off at a token limit (False), not known (None).
        verifiers: for each response its problem's `verifier`, which then decides in place of the gold; "": it has none.

    Raises ValueError on lists of different lengths or an unknown reading."""
    if reading not in READINGS:
        raise ValueError(f"reading is {reading!r}; known are {', '.join(READINGS)}")
    if isinstance(responses, str) or isinstance(golds, str):
        raise ValueError("grade_many takes lists; grade takes one response and its gold answer")
    ends = [finished] * len(responses) if finished is None or isinstance(finished, bool) else finished
    if not len(responses) == len(golds) == len(ends):
        raise ValueError(f"{len(responses)} responses but {len(golds)} golds (and {len(ends)} times finished)")
    found = [extract_answer(text, reading, end)[: MAX_LENGTH + 1] for text, end in zip(responses, ends, strict=True)]
    verdicts = _verdicts([(_gold_text(gold), answer, verifier) for gold, answer, verifier in
                          zip(golds, found, verifiers or [""] * len(found), strict=True)])
    return [Grade(verdict, answer[:MAX_LENGTH]) for verdict, answer in zip(verdicts, found, strict=True)]


def check_golds(golds: Sequence[object], ids: Sequence[object]) -> list[str]:
    """One line for every gold answer that cannot be graded (or only by its own text): to be asked once, when a set is loaded.
    Not of problems with a verifier."""
    verdicts = _verdicts([(_gold_text(gold), _PROBE, "") for gold in golds])
    return [f"problem {name}: gold answer {str(gold)[:80]!r} is unparseable (empty, unbalanced, too long or not mathematics)"
            for name, gold, verdict in zip(ids, golds, verdicts, strict=True) if verdict != "wrong"]


def _verdicts(pairs: Sequence[Asked]) -> list[str]:
    """The verdicts. Where a worker was stuck, the gold itself may be to blame."""
    found = {pair: _known.get(pair) or _decide(*pair) for pair in pairs}
    asked = [pair for pair, verdict in found.items() if not verdict]
    if asked:  # without a question no pool is imported
        found.update(zip(asked, workers.ask(asked), strict=True))
        stuck = [pair for pair in asked if found[pair] == "timeout" and pair[1] != _PROBE and not pair[2]]
        for pair, state in zip(stuck, _verdicts([(gold, _PROBE, "") for gold, _, _ in stuck]), strict=True):
            found[pair] = "timeout" if state == "wrong" else "unparseable gold"
    if len(_known) > CACHE:
        _known.clear()
    _known.update(found)
    return [found[pair] for pair in pairs]


def _decide(gold: str, answer: str, verifier: str) -> str:
    """The verdict where no parser and no verifier is needed, or "" where one is."""
    if verifier:
        return "no answer" if not answer else "wrong" if len(answer) > MAX_LENGTH else ""
    if malformed(gold):
        return "unparseable gold"
    if not answer or answer == gold:
        return "correct" if answer else "no answer"
    if answer == _PROBE and number(gold) is not None:  # read without a parser: where all golds are numbers, no worker starts
        return "wrong"
    try:
        return "correct" if not malformed(answer) and same(gold, answer, None) else "wrong"
    except Undecided:
        return ""
    except RecursionError:  # thousands of = in a row
        return "wrong"


def _gold_text(gold: object) -> str:
    """The gold answer as text; "" where it is none."""
    if hasattr(gold, "tolist"):  # numpy, from a parquet file
        gold = gold.tolist()
    if isinstance(gold, str) and gold.startswith('["') and gold.endswith('"]'):  # a JSON list as text
        with contextlib.suppress(ValueError):
            gold = json.loads(gold)
    if isinstance(gold, list | tuple):
        return _gold_text(gold[0]) if gold else ""
    if not isinstance(gold, str):  # neither None nor nan nor True is a number
        return str(gold) if number(str(gold)) is not None else ""
    return extract_answer(gold) or gold if "boxed" in gold else gold.strip()
