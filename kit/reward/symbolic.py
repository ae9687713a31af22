r"""The parser's part of equality: leaves that `kit.reward.values` cannot read are parsed by math-verify and compared by sympy.

Runs in the grading workers only, which may be killed at any time: nothing here is safe against hostile answers by
itself. Both sides are put in a box, parsed, and evaluated with 60 digits at random points.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from kit.reward.answers import read
from kit.reward.equality import NeedsParser, equivalent, is_plain, leaves, plain, plain_ratio
from kit.reward.values import number


class UnparseableGold(Exception):
    """The gold answer is not something math-verify can read."""


_PREPARE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\text\{\s*([A-Za-z]?)\s*\}", r" \1 "),
        (
            r"(\d+(?:\.\d+)?)\s*\\text\{\s*degree\s*\}",
            r"(\1\\cdot\\frac{\\pi}{180})",
        ),  # within an expression, as in sin
        (r"\\log\s*_\s*(?:e(?![a-z])|\{e\})", r"\\ln "),
        (r"\*\*", "^"),
        (r"(?<!\\)\*", r"\\cdot "),
        (r"(?<![\w^.}])(\d+)\s*\\frac\s*(\d|\{\d+\})\s*(\d|\{\d+\})", r"(\1+\\frac \2 \3)"),  # mixed numbers
        (r"(?<![\\a-zA-Z])(sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|infty)(?![a-zA-Z])", r"\\\1"),
        (r"(?<![\\a-zA-Z])(?:inf|infinity|oo)(?![a-zA-Z])", r"\\infty"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\^\s*(-\s*\d+|\d{2,})", r"^{\1}"),
        (r"\{([^{}]*)\\choose\s*([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"^([^{}]*)\\choose\s*([^{}]*)$", r"\\binom{\1}{\2}"),
        (r"\{\s*\}\s*_\s*(\w|\{\w+\})\s*C\s*_\s*(\w|\{\w+\})", r"\\binom{\1}{\2}"),
        (r"(?<![a-zA-Z])C\s*_\s*(\w|\{\w+\})\s*\^\s*(\w|\{\w+\})", r"\\binom{\1}{\2}"),
        (r"(?<![a-zA-Z])C\((\w+)\s*,\s*(\w+)\)", r"\\binom{\1}{\2}"),
        (r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))", None),
        (r"(\d+)\.(\d*)|\.(\d+)", None),
    ]
]


def _exact(match: re.Match[str]) -> str:
    """A decimal as a fraction, so that no expression ever holds a float."""
    value = number(match.group())
    return match.group() if value is None or isinstance(value, str) else rf"(\frac{{{value.numerator}}}{{{value.denominator}}})"


@lru_cache(maxsize=8192)
def parse(text: str):  # -> sympy.Basic | None
    """The sympy expression math-verify reads in `\\boxed{text}`, or None."""
    from math_verify import parse as math_verify_parse
    from math_verify.parser import LatexExtractionConfig, NormalizationConfig

    if text.lstrip("+-") == r"\infty":
        import sympy

        return -sympy.oo if text.startswith("-") else sympy.oo
    for pattern, replacement in _PREPARE:
        text = pattern.sub(_exact if replacement is None else replacement, text)
    if re.search(r"(?<![_^\d])\d+\s+\d", text):
        return None  # it would add them up
    # Its removal of units takes the m of "2n - m" for metres; units were split off before.
    rules = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last", equations=False)
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)
    found = math_verify_parse(
        rf"\boxed{{{text}}}",
        [config],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    if not found or getattr(found[0], "is_Relational", False):
        return None  # relations were split off before: here it took a misspelt command (\\geslant, \\newline) for one
    return found[0]


def parsed(gold: str, answer: str) -> bool:
    """Compare two leaves, by math-verify where `plain` cannot. Raises UnparseableGold."""
    try:
        return plain(gold, answer)
    except NeedsParser:
        g, a = _parse_gold(gold), parse(answer)
    if a is None:
        return False
    verdict = _compare(g, a, ratio=False)
    if verdict is not None:
        return verdict == 1
    from math_verify import verify

    return bool(verify(g, a, float_rounding=15, numeric_precision=40, strict=True, timeout_seconds=None))


def parsed_ratio(gold: str, answer: str) -> int:
    """`plain_ratio`, by math-verify where that cannot. Raises UnparseableGold."""
    try:
        return plain_ratio(gold, answer)
    except NeedsParser:
        g, a = _parse_gold(gold), parse(answer)
    return 0 if a is None else _compare(g, a, ratio=True) or 0


def _parse_gold(gold: str):  # -> sympy.Basic
    expression = parse(gold)
    if expression is None:
        raise UnparseableGold(gold)
    return expression


def _compare(gold, answer, ratio: bool) -> int | None:
    """1 for equal (or the sign of a constant ratio), 0 for not, None where numbers cannot tell.

    Both are evaluated with 60 digits at the same random points and must agree to 40 of them at every one. Points are
    positive, and integers where floor, factorial and their like occur; negative ones are added where an absolute value,
    or a root on one side only, could hide a sign.
    """
    import sympy

    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return None
    if isinstance(gold, sympy.MatrixExpr) or isinstance(answer, sympy.MatrixExpr):
        return None
    both = []
    for expression in (gold, answer):
        names = {s: sympy.I if s.name == "i" else sympy.Symbol(s.name) for s in expression.free_symbols}
        both.append(expression.xreplace(names).doit())
    if both[0] == both[1]:
        return 1
    if any(e.atoms(sympy.core.function.AppliedUndef) or e.has(sympy.nan, sympy.zoo) for e in both):
        return None
    if any(e.has(sympy.oo, -sympy.oo) for e in both) or all(e.is_Rational for e in both) and not ratio:
        return 0
    symbols = sorted(set().union(*(e.free_symbols for e in both)), key=str)
    discrete = any(e.has(sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial, sympy.Mod) for e in both)
    rooted = [any(p.exp.is_Rational and not p.exp.is_Integer and p.base.free_symbols for p in e.atoms(sympy.Pow)) for e in both]
    negative = rooted[0] != rooted[1] or any(e.has(sympy.Abs) for e in both)
    draw = random.Random(0)
    ratios, told, seen = [], 0, False
    for trial in range(6 if symbols else 1):
        point = {}
        for symbol in symbols:
            whole = sympy.Integer(draw.randint(3, 9) + 5 * trial)
            part = sympy.Rational(draw.randint(1, 996), 997) + (trial % 3)
            value = whole if discrete else part
            point[symbol] = -value if negative and trial > 2 and (trial == 5 or draw.random() < 0.5) else value
        x, y = (sympy.N(e.subs(point), 60, maxn=400) for e in both)
        if not (x.is_number and x.is_finite and y.is_number and y.is_finite):
            continue
        told += 1
        size = max(abs(x), abs(y))
        if size < sympy.Float("1e-50"):
            continue
        seen = True
        if ratio:
            if min(abs(x), abs(y)) < size * sympy.Float("1e-40"):
                return 0
            ratios.append(y / x)
        elif abs(x - y) > size * sympy.Float("1e-40"):
            return 0
    if not told:
        return None
    if not ratio:
        return 1 if seen else int(sympy.simplify(both[0] - both[1]) == 0)
    if not ratios or any(abs(r - ratios[0]) > abs(ratios[0]) * sympy.Float("1e-40") for r in ratios):
        return 0
    return 1 if sympy.re(ratios[0]) > 0 else -1


@lru_cache(maxsize=8192)
def gold_parses(gold: str) -> bool:
    """Can every expression of this gold answer be parsed, and evaluated?"""
    for text in leaves(read(gold)):
        if is_plain(text) or re.search(r"\\text|\d\s*_", text):
            continue
        expression = parse(text)
        if expression is None:
            return False
        _compare(expression, parse("1"), ratio=False)
    return True


def judge(gold: str, answer: str) -> str:
    """ "c" for correct, "w" for wrong, "u" for a gold answer that cannot be parsed."""
    try:
        return "c" if equivalent(gold, answer, parsed, parsed_ratio) else "w"
    except UnparseableGold:
        return "u"
    except MemoryError:
        raise
    except Exception:  # whatever sympy raises on an answer: it is not equal to the gold
        return "w"
