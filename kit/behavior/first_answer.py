r"""Where does a response first state the answer that it gives in the end? What comes after checks it, doubts it, or presents it.

A **statement** is a value in a box, behind "Answer:", or behind "=", "is", "gives" and the like where a sentence, a formula or a
clause ends, if it equals the response's own final answer, right or wrong, by its text or to the grader (`0.5` states `\frac12`).
An expression with other letters or operations than the final answer is not asked about: `17 + 28` is no statement of 45.

Positions are shares of the characters: logs have no positions of tokens. A result on the way, or a number of the problem, can
happen to equal the answer; such a response seems to state it too early, before and after pruning alike.

How much comes after a first solution is also asked in "Do NOT Think That Much for 2+3=?" (arXiv 2412.21187); there a language
model finds the solutions.
"""

import re
import warnings
from collections.abc import Iterator, Sequence

from kit.reward import grading

_GROUP = r"[(\[|][^()\[\]|\n]{1,60}[)\]|]"
_PIECE = rf"{_GROUP}|\\(?!boxed|fbox)[a-zA-Z]+|[{{}}^_]|[\d.,]*\d|[-+*/!]|[a-zA-Z](?![a-zA-Z])|[ \t]"
_END = r"(?:[a-z]+ ?)?(?:[.,;:!?\n=$]|\\[)\]]|\*\*|\Z)"  # one word may come between: a unit
# What a lookahead has found is not taken back: no text makes this slow. Possessive groups are wrong in Python 3.11.2.
_STATEMENT = re.compile(
    r"\\(?:boxed|fbox)\s*\{(?=(?P<box>(?:[^{}]|\{(?=(?P<inner>(?:[^{}]|\{[^{}]{0,80}\}){0,80}))(?P=inner)\}){1,120}))(?P=box)\}"
    r"|(?:=|≈|\b(?:is|are|be|gives?|gave|gets?|got|equals?|to)\b|\b[Aa]nswer\W{0,4}:)"
    r"[ \t$*:]{0,8}+(?:\s{0,3}\\[(\[]\s{0,3})?"
    rf"(?=[^\s.,;:])(?=(?P<value>(?:{_PIECE}){{1,60}}))(?P=value)(?={_END})")
_ASSUMED = re.compile(  # "let x = 2", "if we try n = 3", "for k = 1": nothing is stated
    r"\b(?:(?:let(?! me| us|'s)|if|try|suppose|assum\w+|when|where|consider|substitut\w+|plug\w*|set|setting|given|with|case)\b"
    r"[^,.;:!?\n]*|(?:for|at)[\s$\\(]*[a-zA-Z]?\s*)\Z", re.IGNORECASE)
_LETTERS = re.compile(r"\\[a-zA-Z]+|([a-zA-Z])")
_OPERATIONS = re.compile(r"[+*×·]|\\(?:times|cdot)|(?<=[\w)}])\s*-")


def statements(response: str) -> Iterator[tuple[int, str]]:
    """(where it ends, in characters; the value) of every statement, in order. Linear in the text's length."""
    for match in _STATEMENT.finditer(response):
        value = _bare(match["box"] or match["value"])
        if value and (match["box"] or not _ASSUMED.search(response, max(match.start() - 80, 0), match.start())):
            yield match.end(), value


def _bare(value: str) -> str:
    return " ".join(value.split()).strip(" .,:;!*$")


def first_answers(responses: Sequence[str], finished: Sequence[bool | None]) -> list[float | None]:
    """The share (0 to 1) of each response at whose end its final answer has been stated first; None where it gives no answer.
    `finished`: whether it ended by itself (None: not known), as the grader wants to know it."""
    finals = [_bare(grading.extract_answer(text, finished=end)) for text, end in zip(responses, finished, strict=True)]
    found = [list(statements(text)) if final else [] for text, final in zip(responses, finals, strict=True)]
    asked: set[tuple[str, str]] = set()
    for final, stated in zip(finals, found, strict=True):
        values = [value for _, value in stated]
        before = values[: values.index(final)] if final in values else values
        asked |= {(final, value) for value in set(before) if _shape(value) == _shape(final)}
    pairs = sorted(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer that cannot be read is equal to nothing
        grades = grading.grade_many([f"\\boxed{{{value}}}" for _, value in pairs], [final for final, _ in pairs])
    equal = {pair for pair, grade in zip(pairs, grades, strict=True) if grade.correct}
    shares: list[float | None] = []
    for text, final, stated in zip(responses, finals, found, strict=True):
        first = next((end for end, value in stated if value == final or (final, value) in equal), len(text))
        shares.append(min(first / max(len(text.rstrip()), 1), 1.0) if final else None)
    return shares


def _shape(value: str) -> tuple[frozenset[str], bool]:
    """The letters of a value, and whether anything is left to compute in it."""
    return frozenset(letter for letter in _LETTERS.findall(value) if letter), bool(_OPERATIONS.search(value))
