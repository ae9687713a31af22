r"""Are two answers the same? Trees are compared by shape, leaves by value.

What the tree says is decided here: order, brackets, names, units. A leaf is compared exactly as a number, or at
three points by reward/values; where that knows too little, NeedsParser is raised and reward/symbolic asks math-verify.
There is no tolerance that a person could see.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kit.reward.answers import INFINITY, MAX_LENGTH, MINUS_INFINITY, Node, malformed, read, squeeze, tidy
from kit.reward.values import agree, constant_ratio, number, samples, unit_name

Leaf = Callable[[str, str], bool]


class NeedsParser(Exception):
    """Raised by `plain` where numbers and text are not enough."""


def plain(gold: str, answer: str) -> bool:
    """Compare two leaves without a parser, or raise NeedsParser."""
    if squeeze(gold) == squeeze(answer):
        return True
    g, a = number(gold), number(answer)
    if g is not None and a is not None:
        return g == a
    x, y = samples(gold), samples(answer)
    verdict = agree(x, y) if x and y else None
    if verdict is None:
        raise NeedsParser
    return verdict


def plain_ratio(gold: str, answer: str) -> int:
    """The sign of the constant `answer` is times `gold`, 0 when their ratio is not constant, or raise NeedsParser."""
    x, y = samples(gold), samples(answer)
    sign = constant_ratio(x, y) if x and y else None
    if sign is None:
        raise NeedsParser
    return sign


def is_plain(text: str) -> bool:
    """Can this leaf be evaluated without a parser?"""
    return text.lstrip("+-") == r"\infty" or number(text) is not None or samples(text) is not None


_CHOICE = re.compile(r"(?:option |choice |answer )?(\()?([A-Za-z])(?(1)\)|[).:]?)", re.IGNORECASE)
_CHOICE_AND_MORE = re.compile(r"(?:\(([A-H])\)[.:]?\s|([A-H])[.:)]\s)\s*(\S.*)", re.DOTALL)


def equivalent(gold: str, answer: str, leaf: Leaf, proportional: Callable[[str, str], int]) -> bool:
    """Is `answer` the same as `gold`? `leaf` compares expressions, `proportional` tells the sign of their ratio."""
    gold, answer = tidy(gold), tidy(answer)
    if squeeze(gold) == squeeze(answer):
        return True
    bare_gold, bare = (re.sub(r"\s+(?=[).:])", "", re.sub(r"\\text\{([^{}]*)\}", r"\1 ", t)).strip() for t in (gold, answer))
    choice = _CHOICE.fullmatch(bare_gold)
    more = _CHOICE_AND_MORE.fullmatch(bare)
    if choice and (choice[1] or r"\text" in gold or bare_gold in "ABCDEFGH"):
        given = _CHOICE.fullmatch(bare)
        letter = given[2] if given else (more[1] or more[2]) if more else ""
        lenient = choice[1] or r"\text" in gold or (given and given[1])
        return letter.upper() == choice[2].upper() if lenient else letter == choice[2]
    if more and not choice:
        answer = more[3]
    return same(read(gold), read(answer), leaf, proportional)


def same(g: Node, a: Node, leaf: Leaf, proportional: Callable[[str, str], int]) -> bool:
    def equal(x: Node, y: Node) -> bool:
        return same(x, y, leaf, proportional)

    if g == a:
        return True
    kinds = {g.kind, a.kind}
    if a.kind == "chain":
        return all(equal(g, item) for item in a.items)
    if g.kind == "chain":
        return equal(g.items[-1], a)
    if a.kind == "relation" and g.kind == "leaf" and set(a.text.split()) == {"="}:
        return equal(g, a.items[-1])  # m + n = 7 for 7
    if "relation" in kinds or kinds == {"named"}:
        return _same_relation(g, a, equal, leaf, proportional)
    if "named" in kinds:
        return equal(g.items[0], a) if g.kind == "named" else equal(g, a.items[0])
    if "text" in kinds:
        return g.kind == a.kind and g.text == a.text and (not g.unit or not a.unit or g.unit == a.unit)
    if kinds == {"leaf"}:
        return _same_leaf(g, a, leaf)
    if kinds == {"leaf", "list"}:  # 1,234 read as one number here and as two there
        number_, list_ = (g, a) if g.kind == "leaf" else (a, g)
        return bool(number_.items) and number_.items[0].kind == "list" and _in_order(number_.items[0], list_, equal)
    if kinds == {"seq"}:
        return (g.text == a.text or len(g.items) != 2) and _in_order(g, a, equal)
    if kinds == {"seq", "list"}:  # a tuple whose brackets were forgotten
        seq = g if g.kind == "seq" else a
        return seq.text == "()" and _in_order(g, a, equal)
    if kinds == {"matrix"}:
        shape = [len(row.items) for row in g.items] == [len(row.items) for row in a.items]
        return (
            shape and g.text == a.text and all(all(map(equal, r.items, s.items)) for r, s in zip(g.items, a.items, strict=True))
        )
    if kinds <= {"list", "union"}:
        if g.kind == a.kind == "list" and _all_named(g) != _all_named(a):
            return _in_order(g, a, equal)
        return len(g.items) == len(a.items) and _matched(g.items, a.items, equal)
    if "set" in kinds and kinds <= {"set", "list", "leaf"}:
        x, y = ((n,) if n.kind == "leaf" else n.items for n in (g, a))
        return all(any(equal(i, j) for j in y) for i in x) and all(any(equal(i, j) for i in x) for j in y)
    return False


def _in_order(g: Node, a: Node, equal: Callable[[Node, Node], bool]) -> bool:
    return len(g.items) == len(a.items) and all(map(equal, g.items, a.items))


def _all_named(node: Node) -> bool:
    names = [item.text.partition("_")[0] for item in node.items if item.kind == "named"]  # x_1, x_2: roots in any order
    return len(names) == len(node.items) and len(set(names)) == len(names)


def _matched(golds: tuple[Node, ...], answers: tuple[Node, ...], equal: Callable[[Node, Node], bool]) -> bool:
    """Every gold has an answer of its own (equality is transitive, so taking the first that fits is enough)."""
    left = list(answers)
    for gold in golds:
        hit = next((i for i, answer in enumerate(left) if equal(gold, answer)), None)
        if hit is None:
            return False
        left.pop(hit)
    return True


def _same_leaf(g: Node, a: Node, leaf: Leaf) -> bool:
    if g.unit and a.unit and g.unit != a.unit and "?" not in (g.unit, a.unit):
        return False
    for x, y in ((a, g), (g, a)):  # "6 m" for 6 or for 6 metres: the space tells the unit from the variable
        short = re.fullmatch(r"((?:\S.*)?\d\}?)\s+([mgshlLNJWVKCF](?:\s*\^\s*\{?[23]\}?)?|in)", x.text)
        if short and (unit_name(short[2]) == y.unit or x is a and not y.unit and number(y.text) is not None):
            return leaf(y.text, short[1])
    gold, answer = g.text, a.text
    bases = [re.fullmatch(r"(-?[0-9A-Fa-f]+)\s*_\s*(?:\{\s*(?:\\text\{)?\s*(\w+)\s*\}?\s*\}|(\d+))", t) for t in (gold, answer)]
    if any(bases):
        digits = [b[1] if b else t for b, t in zip(bases, (gold, answer), strict=True)]
        base = [(b[2] or b[3]) if b else "" for b in bases]
        return digits[0].lower() == digits[1].lower() and (base[0] == base[1] or "" in base)
    if r"\text" in (gold + answer).replace(r"\text{ degree }", ""):  # words in the midst of it: 5 feet 3 inches
        return re.sub(r"\\text|[{}\s]", "", gold).lower() == re.sub(r"\\text|[{}\s]", "", answer).lower() or (
            not re.search(r"\\text\{[^{}]{2,}\}", gold + answer) and leaf(_plain_letters(gold), _plain_letters(answer))
        )
    return leaf(gold, answer)


def _plain_letters(text: str) -> str:
    return re.sub(r"\\text\{\s*([A-Za-z]?)\s*\}", r" \1 ", text)


_FLIP = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}


def interval_of(node: Node) -> tuple[str, Node] | None:
    r"""`x > 3` is (x, (3, ∞)); `-2 \le x \le 7` is (x, [-2, 7]); `x \ne 3` is two intervals."""
    parts, signs = [item.text for item in node.items], node.text.split()
    if len(parts) == 2 and re.fullmatch(r"\\?[a-zA-Z]+", parts[1]) and not re.fullmatch(r"\\?[a-zA-Z]+", parts[0]):
        parts, signs = parts[::-1], [_FLIP[signs[0]]]
    if len(parts) == 2 and re.fullmatch(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda|mu|phi)", parts[0]):
        end = node.items[0] if parts[0] == node.items[1].text else node.items[1]
        if signs[0] == r"\ne":
            ends = (MINUS_INFINITY, end), (end, INFINITY)
            return parts[0], Node("union", tuple(Node("seq", pair, "()") for pair in ends))
        if signs[0] in (">", r"\ge"):
            return parts[0], Node("seq", (end, INFINITY), "()" if signs[0] == ">" else "[)")
        if signs[0] in ("<", r"\le"):
            return parts[0], Node("seq", (MINUS_INFINITY, end), "()" if signs[0] == "<" else "(]")
    if len(parts) == 3 and re.fullmatch(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda|mu|phi)", parts[1]):
        low, _, high = node.items
        if set(signs) <= {">", r"\ge"}:
            low, high, signs = high, low, [_FLIP[sign] for sign in signs[::-1]]
        if set(signs) <= {"<", r"\le"}:
            return parts[1], Node("seq", (low, high), ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]"))
    return None


def _same_relation(g: Node, a: Node, equal, leaf: Leaf, proportional: Callable[[str, str], int]) -> bool:
    if g.kind == a.kind == "named":
        if g.text == a.text:
            return equal(g.items[0], a.items[0])
        heads = [re.fullmatch(r"(\w+)\(([a-z])\)", node.text) for node in (g, a)]
        if all(heads) and heads[0][1] == heads[1][1]:  # f(t) = 2t is f(x) = 2x
            renamed = re.sub(rf"(?<![\\a-zA-Z]){heads[1][2]}(?![a-zA-Z])", heads[0][2], a.unit)
            return equal(g.items[0], read(renamed))
    sides = [_sides(node) for node in (g, a)]
    if g.kind == a.kind == "named" and not all(s and re.search("[a-zA-Z]", s[1]) for s in sides):
        return False  # x = 3 is not y = 3
    ranges = [interval_of(node) if node.kind == "relation" else None for node in (g, a)]
    if all(ranges):
        return ranges[0][0] == ranges[1][0] and equal(ranges[0][1], ranges[1][1])
    if ranges[0] and a.kind in ("seq", "union", "list"):
        return equal(ranges[0][1], a)
    if ranges[1] and g.kind in ("seq", "union", "list"):
        return equal(g, ranges[1][1])
    if not all(sides):
        return False
    if {sides[0][2], sides[1][2]} <= {"=", r"\ne"}:
        same_sign = sides[0][2] == sides[1][2]
        return same_sign and proportional(f"({sides[0][0]})-({sides[0][1]})", f"({sides[1][0]})-({sides[1][1]})") != 0
    sign = {sides[0][2]: 1, _FLIP[sides[0][2]]: -1}.get(sides[1][2], 0)
    return sign != 0 and proportional(f"({sides[0][0]})-({sides[0][1]})", f"({sides[1][0]})-({sides[1][1]})") == sign


def _sides(node: Node) -> tuple[str, str, str] | None:
    """(left, right, sign) of a relation of two sides; a named value is one too."""
    if node.kind == "named":
        return (node.text, node.unit, "=") if node.items[0].kind == "leaf" else None
    if node.kind == "relation" and len(node.items) == 2:
        return node.items[0].text, node.items[1].text, node.text
    return None


def leaves(node: Node) -> list[str]:
    """The expressions of a tree that are not text."""
    if node.kind == "leaf":
        return [node.text]
    return [text for item in node.items for text in leaves(item)]


def decide_plainly(gold: str, answer: str, gold_is_known: bool) -> bool | None:
    """The verdict where no parser is needed, else None. `gold_is_known`: a worker has parsed this gold before."""
    if max(len(gold), len(answer)) > MAX_LENGTH or malformed(answer):
        return gold == answer or number(gold) is not None and number(gold) == number(answer)
    try:
        verdict = equivalent(gold, answer, plain, plain_ratio)
    except NeedsParser:
        return None
    except RecursionError:  # thousands of = or \\approx in a row
        return False
    if not verdict and not gold_is_known and not all(map(is_plain, leaves(read(gold)))):
        return None  # wrong for certain, but nobody has looked yet whether the gold can be parsed
    return verdict
