r"""From the text of an answer to a small tree: list, tuple or interval, set, union, matrix, name, relation, words, leaf.

`tidy` gives the many spellings of LaTeX one form, `read` splits it at its outermost structure until only leaves are
left: one expression and its unit each. Nothing is evaluated here, and nothing depends on a parser of mathematics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from kit.reward.values import FUNCTIONS, quantity, samples

MAX_LENGTH = 2_000  # characters; no benchmark's gold is longer than 300, and a parser is not fed a megabyte
MAX_DEPTH = 40  # nested brackets

# ---------------------------------------------------------------- one spelling of many

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "∕": "/",
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^\circ ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "≈": r"\approx ", "ℝ": r"\mathbb{R}",
        "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "²": "^2", "³": "^3", "½": r"\frac12 ", "¼": r"\frac14 ",
        "¾": r"\frac34 ", "，": ",", "、": ",", "；": ";", "：": ":", "（": "(", "）": ")", "［": "[", "］": "]",
        "％": "%", "。": ".", "＝": "=", "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "",
        **{chr(0xFF10 + d): str(d) for d in range(10)},
    }
)  # fmt: skip

_TIDY = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|[bB]ig[lr]?|bigg[lr]?|displaystyle|textstyle|limits|mathstrut)(?![a-zA-Z])\.?", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(frac|binom)\s*(\d|(?<=\s)[a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\\1{\2}"),
        (r"\\(frac|binom)\s*(\{(?:[^{}]|\{[^{}]*\})*\})\s*(\d|[a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\\1\2{\3}"),
        (r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])", r"\\le "),
        (r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"<=|=<", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=|\\neq(?![a-zA-Z])", r"\\ne "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\[lr]?vert(?![a-zA-Z])|\\\|", "|"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset"),
        (r"\\(?:(?:Bbb|mathbf|mathbb)\s*(?:\{R\}|R)|R|reals)(?![a-zA-Z])", r"\\mathbb{R}"),
        (r"\\(?:mathbf|boldsymbol|bm|mathit|mathcal|mathsf|vec)\s*\{([^{}]*)\}", r"\1"),
        (r"\{\\(?:rm|bf|it)\s+([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:(?:text)?color|[hv]space\*?|[hv]?phantom)\s*\{[^{}]*\}", " "),
        (r"\\(?:math(?:bf|it|sf|tt|normal)|boldsymbol|bm|rm|bf|it|underline|emph|[lL]arge|LARGE|[hH]uge)(?![a-zA-Z])", " "),
        (r"\\(?:text(?:bf|rm|it|normal|sf|tt|sc)|mbox|hbox|mathrm)\s*\{", r"\\text{"),
        (r"\\text\s+\{", r"\\text{"),
        (
            r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))|\\(?:text)?degree(?![a-zA-Z])(?:\{\})?"
            r"|(?<=\d)\s*\^\s*(?:\{o\}|o(?![a-zA-Z]))",
            r"\\text{ degree }",
        ),
        (r"\\q?quad(?![a-zA-Z])|(?<!\\)\\[,;:> ]|~|\\\n|\\space(?![a-zA-Z])|\\thinspace(?![a-zA-Z])", "\x01"),
        (r"(?<=\d)(?:,\s*(?:\\!)+|\{,\}|,?\x01)\s*(?=\d{3}(?!\d))", ""),  # 10,\!080 and 10\,080: thousands for certain
        (r"(?<!\\)\\!|\{\}(?=\d)", ""),
        (r"\{,\}", ","),
        (r"\s*\x01\s*", " "),
        (r"\\text\{ degree \}\s*(?:\\text\{\s*[CF]\s*\}|[CF](?![a-zA-Z]))", r"\\text{ degree }"),
        (r"\\text\{\s*\\text\{ degree \}\s*[CF]?\s*\}", r"\\text{ degree }"),
        (r"(?<=\d)\s*\^\s*(?:\{\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}|\\text\{\s*(?:st|nd|rd|th)\s*\})", ""),
        (r"(?<=[\d}\s])([\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+)\s*$", r"\\text{\1}"),
        (r"\\text\{\s*:\s*\}|\\colon(?![a-zA-Z])", ":"),
        (r"\\text\{\s*([\dA-F]+)\s*\}(?=\s*_)", r"\1"),
        (r"\\(?:therefore|checkmark|blacksquare|qed|square)(?![a-zA-Z])", " "),
        (r"^\s*\\approx(?![a-zA-Z])", ""),
        (r"^\s*\\text\{[^{}]*(?<![a-z])(?:is|are|equals|about|approximately|approx\.?|exactly|[Aa]nswer)\s*:?\s*\}", ""),
        (r"^\s*(\\text\{)?\s*(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer(?: is)?\s*:?(?=[\s\d$\\-])\s*", r"\1"),
        (r"(?<!\\)\$", " "),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\text\{\s*\\\$\s*\}", r"\\$"),
        (r"(^|\\cup)\s*\]([^()\[\]]*[,;][^()\[\]]*)(?=[\[\]]\s*(?:$|\\cup))", r"\1 (\2"),  # ]2,3[ is (2,3)
        (r"([\[(][^()\[\]]*[,;][^()\[\]]*)\[(?=\s*(?:$|\\cup))", r"\1)"),
        (r"\*\*(?=\s*$)|^\s*\*\*", ""),
        (r"\s+", " "),
        (r"(?<![\d.,] )(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d/ ])", lambda m: m[1] + m[2].replace(" ", "")),
    ]
]


@lru_cache(maxsize=8192)
def tidy(text: str) -> str:
    r"""One spelling of many: `\dfrac` and `\tfrac` become `\frac`, `\left` goes, `\mbox` becomes `\text`, `−` becomes `-`."""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    while True:
        before = text
        text = text.strip()
        text = text.rstrip(",;").rstrip() if text.endswith((",", ";")) else text
        if text.endswith(".") and not text.endswith("..") or text.endswith("\\"):
            text = text[:-1].rstrip("\\")
        if text.startswith((r"\boxed{", r"\fbox{")) and _closing(text, text.index("{")) == len(text) - 1:
            text = text[text.index("{") + 1 : -1]
        elif text.startswith("{") and _closing(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


def squeeze(text: str) -> str:
    """Without the spaces that mean nothing: those between two digits stay (1 1/2 is not 11/2)."""
    return re.sub(r"(?<!\d) +| +(?!\d)", "", text)


_TOKEN = re.compile(r"\\begin\s*\{[a-z*]+\}|\\end\s*\{[a-z*]+\}|\\[a-zA-Z]+|\\.|[^\\]", re.DOTALL)
_OPEN, _CLOSE = frozenset(["(", "[", "{", r"\{"]), frozenset([")", "]", "}", r"\}"])


def _tokens(text: str) -> list[tuple[str, int, int]]:
    """(token, where it starts, bracket depth before it) for every token."""
    depth, out = 0, []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _CLOSE or token.startswith(r"\end"):
            depth -= 1
        out.append((token, match.start(), depth))
        if token in _OPEN or token.startswith(r"\begin"):
            depth += 1
    return out


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`, or -1."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        token = match.group()
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0:
            return match.end() - 1
    return -1


def _split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """The pieces of `text` between top-level separators, and the separators found."""
    pieces, found, last = [], [], 0
    for token, start, depth in _tokens(text):
        if depth == 0 and token in separators:
            pieces.append(text[last:start])
            found.append(token)
            last = start + len(token)
    return [*pieces, text[last:]], found


def malformed(text: str) -> str | None:
    r"""Why `text` is not a LaTeX expression at all ("unbalanced braces", …), or None: what is checked of every gold."""
    if not text.strip(" \t\r\n$"):
        return "empty"
    if len(text) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    braces = depth = deepest = environments = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        braces += (token == "{") - (token == "}")
        depth += (token in _OPEN) - (token in _CLOSE)
        deepest = max(deepest, depth)
        environments += token.startswith(r"\begin") - token.startswith(r"\end")
        if braces < 0 or environments < 0:
            break
    if braces or environments:
        return "unbalanced braces"
    return f"more than {MAX_DEPTH} nested brackets" if deepest > MAX_DEPTH else None


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an answer.

    kind   text · list · seq (tuple or interval) · set · union · matrix · named · chain · relation · leaf
    items  the parts (of a named value: the value; of a leaf written 1,234: its other reading, a list)
    text   the words, the two brackets, the matrix's kind, the name, the relation signs, or the expression
    unit   of a leaf
    """

    kind: str
    items: tuple[Node, ...] = ()
    text: str = ""
    unit: str = ""


_LIST = frozenset([",", ";"])
_RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\equiv"])
_JOINERS = re.compile(
    r"\\text\{\s*,?\s*(?:and|or|和|或|及)\s*\}|(?<=[^a-zA-Z\\])(?:and|or|和|或|及)(?=[^a-zA-Z])|\\(?:lor|vee|land|wedge)(?![a-zA-Z])"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_NAME = re.compile(
    r"(?!\\(?:pi|infty|emptyset)(?![a-zA-Z]))(?:\\(?:angle|triangle|overline|text|operatorname|mathrm)\s*)?"
    r"(?:\\?[A-Za-z]+|\{[A-Za-z ]+\}|[A-Z](?: ?[A-Z](?:_\{?\d\}?)?)+)\s*'*"
    r"(?:\s*_\s*(?:\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|\\?[A-Za-z0-9]+))?(?:\s*\(\s*[A-Za-z0-9, ]+\s*\))?"
)
_NAMES = re.compile(r"\(\s*[a-zA-Z]\w*(?:\s*,\s*[a-zA-Z]\w*)+\s*\)")
_UNKNOWN = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|angle|triangle)(?![a-zA-Z])")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9'., :\-]*")
_PLAIN_WORDS = frozenset(["yes", "no", "true", "false", "odd", "even", "all", "none", "east", "west"])
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTH_WORDS = {word for month in _MONTHS for word in (month, month[:3])}
_NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TIME = re.compile(r"(\d{1,2}):(\d{2})\s*(?:\\text\{)?\s*([aApP])?\.?\s*(?:[mM])?\.?\s*\}?")
_MATRIX = re.compile(
    r"(.*?)(?:\\cdot|\\times)?\s*\\begin\s*\{([a-zA-Z]*matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\2\}", re.DOTALL
)
MINUS_INFINITY, INFINITY = Node("leaf", text=r"-\infty"), Node("leaf", text=r"\infty")


def words_of(text: str) -> str | None:
    r"""The words of an answer that is text (`\text{even}`, `June 20`), in one spelling; None for mathematics."""
    whole = text.startswith(r"\text{") and _closing(text, 5) == len(text) - 1
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    if not plain or not _WORDS.fullmatch(plain):
        return None
    parts = re.findall(r"[a-z]+|\d+(?=(?:st|nd|rd|th)\b)|\d+", plain.lower().replace("'", ""))
    longest = max((len(part) for part in parts if part.isalpha()), default=0)
    months = set(parts) & _MONTH_WORDS
    if (
        whole
        and longest < 2
        or not whole
        and not months
        and (
            longest < 4
            and plain.lower() not in _PLAIN_WORDS
            or set(parts) & FUNCTIONS
            or min(map(len, parts)) < 2
            and "," in plain
        )
    ):
        return None
    parts = [part for part in parts if part not in ("st", "nd", "rd", "th", "the", "a", "an")] or parts
    if not parts or not parts[0].isalpha() and not months:
        return None
    if months:  # 20 June is June 20 is Jun 20
        parts = sorted(part[:3] if part in _MONTH_WORDS else part for part in parts)
    return " ".join(parts)


@lru_cache(maxsize=8192)
def read(text: str, merge: bool = True) -> Node:
    """The tree of one answer. `merge`: read 1,234 as one number where both readings are possible."""
    text = tidy(text)
    words = words_of(text)
    if words is not None:
        if words in ("all real numbers", "all reals", "all real number"):
            return Node("seq", (MINUS_INFINITY, INFINITY), "()")
        if words in ("no solution", "no solutions", "empty set"):
            return Node("set")
        if words in ("infinity", "positive infinity"):
            return INFINITY
        if words in _NUMBER_WORDS:
            return Node("leaf", text=str(_NUMBER_WORDS.index(words)))
        return Node("text", text=words)
    if text.startswith(r"\text{") and _closing(text, 5) == len(text) - 1:
        text = tidy(text[6:-1])
    clock = _TIME.fullmatch(text)
    if clock:
        return Node("text", text=f"{int(clock[1])}:{clock[2]}", unit=(clock[3] or "").lower())

    joined = _JOINERS.sub(",", text)
    joined = re.sub(r",\s*,", ",", joined)
    if merge and _THOUSANDS.search(joined):
        merged = _merge_thousands(joined)
        if merged != joined:
            other = read(text, merge=False)
            node = read(merged, merge=False)
            return Node(node.kind, (other,), node.text, node.unit) if node.kind == "leaf" else node
    pieces, found = _split(joined, _LIST)
    pieces = [piece for piece in pieces if piece.strip()]
    if found and len(pieces) > 1:
        return _flat("list", [read(piece, merge) for piece in pieces])

    pieces, found = _split(re.sub(r"([\])}])\s*U\s*([\[(\\])", r"\1\\cup \2", text), frozenset([r"\cup"]))
    if found:
        return _flat("union", [read(piece, merge) for piece in pieces])

    node = _relation(text, merge) or _bracketed(text, merge)
    if node:
        return node
    matrix = _MATRIX.fullmatch(text)
    if matrix and r"\begin" not in matrix[1] + matrix[3] and (not matrix[1] or samples(matrix[1].strip())):
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-z])", matrix[3].replace(r"\hline", "")) if row.strip()]
        times = rf"({matrix[1]})\cdot" if matrix[1] else ""
        cells = tuple(Node("row", tuple(read(f"{times}({cell})" if times else cell) for cell in row.split("&"))) for row in rows)
        return Node("matrix", cells, times + "determinant" if matrix[2] in ("vmatrix", "Vmatrix") else "matrix")
    reals = re.fullmatch(r"\\mathbb\s*\{?R\}?(?:\s*(?:\\setminus|\\backslash|-)\s*\\\{(.*)\\\})?", text)
    if reals:
        points = {samples(point.strip()): read(point) for point in _split(reals[1] or "", _LIST)[0] if point.strip()}
        if None not in points:
            ends = [MINUS_INFINITY, *(points[value] for value in sorted(points)), INFINITY]
            pieces = [Node("seq", pair, "()") for pair in pairwise(ends)]
            return _flat("union", pieces) if points else pieces[0]
    if text == r"\emptyset":
        return Node("set")
    if r"\pm" in text or r"\mp" in text:
        return _both_signs(text)
    expression, unit = quantity(text)
    if expression != text and (expression.startswith(("(", "{")) or r"\text" in expression):
        inner = read(expression, merge)
        if inner.kind == "leaf" and not inner.unit:
            return Node("leaf", text=inner.text, unit=unit)
    return Node("leaf", text=expression, unit=unit)


def _both_signs(text: str) -> Node:
    plus = re.sub(r"\\mp(?![a-z])", "-", re.sub(r"\\pm(?![a-z])", "+", text))
    minus = re.sub(r"\\mp(?![a-z])", "+", re.sub(r"\\pm(?![a-z])", "-", text))
    return _flat("list", [read(plus.lstrip("+ ")), read(minus.lstrip("+ "))])


def _flat(kind: str, nodes: list[Node]) -> Node:
    """A list within a list (from a plus-minus) is one list."""
    items: list[Node] = []
    for node in nodes:
        items.extend(node.items if node.kind == kind else [node])
    return Node(kind, tuple(items))


def _merge_thousands(text: str) -> str:
    """1,234 -> 1234 at the top level, unless other tight commas say that it is a list."""
    spans, last = [], 0
    depth = {start: d for token, start, d in _tokens(text) if token == ","}
    for match in _THOUSANDS.finditer(text):
        if depth.get(text.index(",", match.start())) == 0:
            spans.append(text[last : match.start()] + match.group().replace(",", ""))
            last = match.end()
    merged = "".join(spans) + text[last:]
    tight = any(token == "," and d == 0 and merged[s + 1 : s + 2].isdigit() for token, s, d in _tokens(merged))
    return text if tight else merged


def _relation(text: str, merge: bool) -> Node | None:
    """Equations, names and inequalities."""
    pieces, found = _split(text.replace(":=", "="), _RELATIONS)
    pieces = [piece.strip() for piece in pieces]
    if not found or not pieces[-1] or set(found) != {"="} and not all(pieces):
        return None
    if not pieces[0]:  # "= 5"
        return read("=".join(pieces).lstrip("= "), merge) if any(pieces) else None
    named = _NAME.fullmatch(pieces[0]) or _NAMES.fullmatch(pieces[0])
    name = re.sub(r"\\text|\\mathrm|[{} \\]", "", pieces[0]) if named else None
    if r"\approx" in found:  # the exact side is the answer, unless it is only a name
        left, right = re.split(r"\\approx(?![a-z])", text, maxsplit=1)
        return read(right if name and found[0] == r"\approx" else left, merge)
    if found == [r"\in"] or found == [r"\equiv"]:
        return read(pieces[1], merge) if name else None
    if set(found) == {"="}:
        if len(pieces) == 2 and re.fullmatch(r"[a-zA-Z]", pieces[1]) and not _UNKNOWN.search(pieces[0]):
            name, pieces = pieces[1], pieces[::-1]  # 3 = x
        if name:
            return Node("named", (read(pieces[-1], merge),), name, unit=pieces[-1])
        if not any(map(_UNKNOWN.search, pieces[:-1])):
            return Node("chain", tuple(read(piece, merge) for piece in pieces))
    if r"\in" in found or r"\equiv" in found:
        return None
    return Node("relation", tuple(Node("leaf", text=quantity(piece)[0]) for piece in pieces), " ".join(found))


def _bracketed(text: str, merge: bool) -> Node | None:
    if text.startswith(r"\{") and text.endswith(r"\}") and _closing(text, 0) == len(text) - 1:
        inner = text[2:-2].strip()
        if not inner:
            return Node("set")
        builder = re.fullmatch(r"[a-z]\s*(?:\\in[^|:]*)?(?:\||:|\\mid(?![a-z]))(.*)", inner, re.DOTALL)
        if builder:
            return read(builder[1], merge)
        node = read(inner, merge=False)
        return Node("set", node.items if node.kind == "list" else (node,))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closing(text, 0) == len(text) - 1:
        pieces, found = _split(text[1:-1].rstrip(", "), _LIST)
        if found and all(piece.strip() for piece in pieces):
            if text.count(r"\pm") == 1:  # (0, \pm 2) is two points; two signs may be two points or four
                return _both_signs(text)
            return Node("seq", tuple(read(piece, merge=False) for piece in pieces), text[0] + text[-1])
        if not found and text[0] + text[-1] in ("()", "[]") and text[1:-1].strip():
            return read(text[1:-1], merge)
    return None
