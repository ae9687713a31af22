r"""How often does a trace solve its problem, and where does the first correct solution end? What comes after it is redundant.

An attempt ends where the thinking arrives at a candidate for the answer:

- said outright: `\boxed{29}`, "the answer is 29", "29 again", "31 is not 29", "that gives 31, I had 29" (the new value counts);
- or as a conclusion, "So … = 29." or "… = 29. Wait, let me check", of a value that the trace says outright elsewhere, or that
  is what the response answers in the end. Other results on the way are no attempts: nothing tells them from steps.

Saying the same value again without any work in between (an equation, or a sentence with two numbers) is the same attempt, and
so is a check of one step. A candidate is compared with the gold answer by the grader, in its killable workers. Positions are
characters: a log has no token positions, and shares of characters and of tokens are close. A small number can turn up as a
conclusion before the problem is solved; such a trace seems solved too early, before and after pruning alike.

The idea of counting solutions and of a first correct one follows "Do NOT Think That Much for 2+3=?" (arXiv 2412.21187), where
a language model does the splitting; here rules do, so that it can be read and costs nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.behavior import phases
from kit.reward import grading


@dataclass(frozen=True)
class Candidate:
    """A value the thinking arrives at: `end` is a position in characters, `work` whether equations came before it."""

    end: int
    value: str
    outright: bool
    work: bool
    check: bool  # in a sentence that opens with a doubt, so that repeating a value is checking it


@dataclass(frozen=True)
class Attempts:
    """What was found in one trace. `first_correct` is where the first correct attempt ends, as a share of the thinking; what
    comes after it is redundant."""

    count: int
    first_correct: float | None


_TEX = r"\\[a-zA-Z]+|[{}^_]|[\d.,]*\d|[-+*/()\[\]|!]|,(?=\s?(?:[-\d\\(]|[a-z](?![a-z])))|[a-zA-Z](?![a-zA-Z])|\s"
_VALUE = rf"(?=[^\s.,;:])(?:{_TEX}){{1,60}}+"
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]{0,80}+\}){0,80}+\}){1,120}+)\}")
_SAID = re.compile(rf"\banswers? (?:is|are|would be|should be|must be|=)\s*:?\s*({_VALUE})", re.IGNORECASE)
_AGAIN = re.compile(r"(\S{0,40}\d\S{0,40}) again\b")
_IS_NOT = re.compile(r"(\d[\d.,/]*) is not (\d[\d.,/]*)")
_HAD = re.compile(
    r"\b(?:gives?|gave|got|get|is) (\d[\d.,/]*) ?,? (?:(?:but|while|and|before|earlier) )*I (?:had|got) (\d[\d.,/]*)")
_EQUALS = re.compile(r"=|≈|\b(?:is|are|gives?|equals|get|to)\b")
_RESULT = re.compile(rf"\s*({_VALUE})\s*(?:,?\s*(?:right|correct|not \S+)\s*)?[.!?:]*\s*$")
_OUTRIGHT = (("boxed", _BOXED), ("nswer", _SAID), (" again", _AGAIN), (" is not ", _IS_NOT), (" I ", _HAD))
_CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|which (?:gives|is)|in total|altogether|finally|we get|that gives)\b", re.IGNORECASE)
_TURNS = re.compile(
    r"\W*(?:but |so |okay,? |hmm,? |and )*"
    r"(?:wait|alternatively|let me|therefore|thus|hence|hold on|to (?:verify|check|confirm)|double|yes)\b", re.IGNORECASE)
_WORK = re.compile(r"=|\d\D+\d")
_DOUBT = re.compile(r"\W*(?:but |so |oh,? |no,? )*(?:wait|hold on)\b", re.IGNORECASE)
_DOLLARS = str.maketrans("", "", "$*~")


def candidates(thinking: str) -> list[Candidate]:
    """Every value that the thinking arrives at, said outright or as a conclusion, in order."""
    texts = [s for s in phases.sentences(thinking) if re.search(r"\w", s)]  # not the brackets around a formula
    found: list[Candidate] = []
    position, worked = 0, False
    for k, sentence in enumerate(texts):
        position = thinking.index(sentence, position) + len(sentence)
        text = sentence.translate(_DOLLARS).replace("\\(", "").replace("\\)", "")
        value, outright = _arrives(text)
        led = text if k == 0 or not texts[k - 1].endswith(":") else texts[k - 1] + text
        if value and (outright or k + 1 == len(texts) or _CONCLUDES.search(led) or _TURNS.match(texts[k + 1])):
            work = worked or len(_WORK.findall(text)) > 1
            found.append(Candidate(position, value, outright, work, bool(_DOUBT.match(text)) and not outright))
            worked = False
        else:
            worked = worked or bool(_WORK.search(text)) and not _DOUBT.match(text)  # a check of one step is no new attempt
    return found


def _arrives(text: str) -> tuple[str, bool]:
    """The value that a sentence arrives at, and whether it says outright that this is the answer."""
    for mark, pattern in _OUTRIGHT:
        if mark in text and (found := pattern.findall(text)):
            value = plain(found[-1] if isinstance(found[-1], str) else found[-1][0])
            if value:
                return value, True
    ends = [m.end() for m in _EQUALS.finditer(text[-120:])]
    match = _RESULT.match(text[-120:], ends[-1]) if ends else None
    return (plain(match[1]), False) if match else ("", False)


def plain(value: str) -> str:
    r"""A value without what makes equal ones look different.

    >>> plain(" 1,234 ."), plain("\\dfrac{1}{2}"), plain("(3, 2)"), plain("f(n) = n")
    ('1234', '\\frac{1}{2}', '(3,2)', 'n')
    """
    value = re.sub(r"\\[,;:! ]|\\(?:left|right)|\s|(?<=\d),(?=\d{3})", "", value).replace("\\dfrac", "\\frac")
    return re.sub(r"^[a-zA-Z](?:_\w|\([a-z]\))?=", "", value).strip(".,:;!")


def find(responses: Sequence[str], golds: Sequence[object]) -> list[Attempts]:
    """The attempts in each response's thinking, compared with its gold answer ("" where that is not known)."""
    thoughts = [phases.thinking(r) for r in responses]
    kept = []
    for text, response in zip(thoughts, responses, strict=True):
        found = candidates(text)
        said = {c.value for c in found if c.outright} | {plain(old) for p in (_IS_NOT, _HAD) for _, old in p.findall(text)}
        kept.append(list(_attempts(found, said | {plain(grading.extract_answer(response))})))
    right = _right({(str(gold), c.value) for gold, found in zip(golds, kept, strict=True) for c in found})
    results = []
    for text, gold, found in zip(thoughts, golds, kept, strict=True):
        first = next((c.end for c in found if right[str(gold), c.value]), None)
        results.append(Attempts(len(found), None if first is None else first / max(len(text.rstrip()), 1)))
    return results


def _attempts(found: Iterable[Candidate], said: set[str]) -> Iterable[Candidate]:
    """Those candidates that end an attempt of their own."""
    last, worked = None, False
    for c in found:
        worked = worked or c.work
        if c.value not in said:
            worked = True
            continue
        if c.value != last or worked and not c.check:
            yield c
        last, worked = c.value, False


def _right(pairs: set[tuple[str, str]]) -> dict[tuple[str, str], bool]:
    """Whether value equals gold, for (gold, value) pairs; False where there is no gold answer."""
    known = sorted(p for p in pairs if p[0].strip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken gold answers the evaluation has told
        grades = grading.grade_many([f"\\boxed{{{value}}}" for _, value in known], [gold for gold, _ in known])
    return dict.fromkeys(pairs, False) | {pair: grade.correct for pair, grade in zip(known, grades, strict=True)}
