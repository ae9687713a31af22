r"""Numbers, units and simple algebra, read without a parser: exact values of short LaTeX expressions.

`number` reads one number exactly, `quantity` splits the unit off, `samples` evaluates arithmetic with letters, roots and
powers at three points. All run in linear time on texts of bounded length and return None (or the text itself) for
whatever they do not know, which then goes to math-verify.
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

MAX_DIGITS = 1_000  # beyond this, digits are compared as text and never become an integer

_D = r"(?:\d+\.?\d*|\.\d+)"
_ARG = rf"(?:\{{\s*(-?{_D})\s*\}}|\s*(\d))"
_DECIMAL = re.compile(r"([+-]?)\s*(\d*)\.?(\d*)")
_NUMBERS = {
    "fraction": re.compile(rf"([+-]?)\s*(?:(\d+)\s*)?\\frac\s*{_ARG}\s*{_ARG}"),
    "slash": re.compile(rf"([+-]?)\s*(?:(\d+)\s+)?({_D})\s*/\s*({_D})"),
    "power": re.compile(rf"([+-]?)\s*({_D})\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*([+-]?\d+)\s*\}}|([+-]?\d+))"),
    "exponent": re.compile(rf"([+-]?)\s*({_D})[eE]([+-]?\d+)"),
    "repeating": re.compile(r"([+-]?)\s*(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))"),
}


def number(text: str) -> Fraction | str | None:
    r"""The exact value of `-12`, `.5`, `1{,}000`, `3/4`, `\frac34`, `1\frac45`, `1.2\times10^3`, `0.\overline{3}`; else None.

    More than 1000 digits come back as text in one spelling (Python refuses to read them as an integer, rightly).
    """
    match = _DECIMAL.fullmatch(text)
    if match:
        sign, whole, decimals = match.groups()
        if not whole and not decimals:
            return None
        whole, decimals = whole.lstrip("0"), decimals.rstrip("0")
        if len(whole) + len(decimals) > MAX_DIGITS:
            return f"{sign.strip('+')}{whole}.{decimals}"
        value = Fraction(int(whole + decimals or "0"), 10 ** len(decimals))
        return -value if sign == "-" else value
    if len(text) > 200:
        return None
    for kind, pattern in _NUMBERS.items():
        match = pattern.fullmatch(text)
        if not match:
            continue
        sign, *groups = match.groups()
        if kind == "fraction":
            whole, a, b, c, d = groups
            top, bottom = Fraction(a or b), Fraction(c or d)
        elif kind == "slash":
            whole, top, bottom = groups[0], Fraction(groups[1]), Fraction(groups[2])
        elif kind == "repeating":
            before, after, block = groups[0] or "0", groups[1], groups[2] or groups[3]
            head = int(before + after)
            whole, top = None, Fraction(int(before + after + block) - head)
            bottom = Fraction((10 ** len(block) - 1) * 10 ** len(after))
        else:
            power = int(groups[1] or groups[2]) if kind == "power" else int(groups[1])
            if abs(power) > MAX_DIGITS:
                return None
            whole, top, bottom = None, Fraction(groups[0]) * Fraction(10) ** power, Fraction(1)
        if bottom == 0 or (whole and top < 0):
            return None
        value = int(whole or 0) + top / bottom
        return -value if sign == "-" else value
    return None


# ---------------------------------------------------------------- units

_UNITS = {
    "degree": "degree degrees deg", "%": "percent percents percentage pct", "dollar": "dollar dollars usd",
    "cent": "cent cents", "pound": "pound pounds lb lbs", "euro": "euro euros", "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres", "mm": "mm millimeter millimeters",
    "km": "km kilometer kilometers kilometre kilometres", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards",
    "mi": "mi mile miles", "s": "s sec secs second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours",
    "day": "day days", "week": "week weeks", "month": "month months", "year": "year years yr yrs", "g": "g gram grams",
    "kg": "kg kilogram kilograms", "mg": "mg milligram milligrams", "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters",
    "mph": "mph", "radian": "rad radian radians", "oz": "oz ounce ounces", "unit": "unit units", "km/h": "kph kmh",
    "n": "newton newtons", "j": "joule joules", "w": "watt watts", "hz": "hz hertz",
}  # fmt: skip
_UNIT = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_BARE = re.compile(r"(?:square |sq\.? |cubic |cu\.? )?([A-Za-z]+)(?:\s*/\s*[A-Za-z]+| per [A-Za-z]+)?(?:\s*\^\s*\{?-?\d\}?)?")
_TEXT_UNIT = re.compile(
    r"(?:\\text\{[^{}]*\}|\\frac\s*\{\s*\\text\{[^{}]*\}\s*\}\s*\{\s*\\text\{[^{}]*\}\s*\})"
    r"(?:\\text\{[^{}]*\}|\s|/|\\cdot|\^\s*\{?\s*-?\d\s*\}?)*$"
)
_SYMBOLS = {
    r"\$": "dollar",
    "€": "euro",
    "¢": "cent",
    "£": "pound",
    r"\pounds": "pound",
    "¥": "yen",
    "₹": "rupee",
    r"\euro": "euro",
}


def unit_name(text: str) -> str:
    """One name for many spellings of a unit: "square inches", "in^2" and "inches^2" are `in^2`; an unknown one is "?"."""
    text = re.sub(r"\\text|\\frac|\\cdot|[{}.()]|\\", " ", text).strip().lower()
    power = 1
    for word, exponent in (("square ", 2), ("sq ", 2), ("cubic ", 3), ("cu ", 3)):
        if text.startswith(word):
            text, power = text[len(word) :], exponent
    found = re.search(r"\^\s*(-?\d)\s*$", text)
    if found:
        text, power = text[: found.start()], int(found.group(1))
    names = [_UNIT.get(word.strip(), "?") for word in re.split(r"\s*/\s*|\s+per\s+", text.strip())]
    if "?" in names or len(names) > 2:
        return "?"
    if names == ["mi", "h"]:
        names = ["mph"]
    return "/".join(names) + (f"^{power}" if power != 1 else "")


def quantity(text: str) -> tuple[str, str]:
    r"""`5.4 \text{ cents}` -> ("5.4", "cent"); `\$18.90` -> ("18.90", "dollar"); `10\%` -> ("10", "%"); `x+1` -> ("x+1", "")."""
    unit = ""
    text = text.strip()
    for symbol, name in _SYMBOLS.items():
        sign = "-" if text.startswith("-" + symbol) else ""
        if text.startswith(sign + symbol) and len(text) > len(sign + symbol):
            text, unit = sign + text[len(sign + symbol) :].strip(), name
        elif text.endswith(symbol) and len(text) > len(symbol):
            text, unit = text[: -len(symbol)].strip(), name
    if re.search(r"\\?%$", text):
        return re.sub(r"\s*\\?%$", "", text), "%"
    modulus = re.fullmatch(r"(.*?)\s*\(?\s*\\(?:pmod|bmod|mod|text\{\s*mod\s*\})\s*\{?(\w+)\}?\s*\)?", text)
    if modulus and modulus[1]:
        return modulus[1], f"mod {modulus[2]}"
    bare = re.sub(r"\s*\\text\{ degree \}", "", text)
    if bare != text and not re.search(r"\\(?:text|sin|cos|tan|cot|sec|csc)|'", bare):  # 45^\circ + 30^\circ
        return bare.strip(), "degree"
    match = _TEXT_UNIT.search(text)
    head = text[: match.start()].strip() if match else ""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", match.group()).strip() if match else ""
    if words == "degree" and re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", head) or words in ("i", "e"):
        return text, unit
    if head and not head.endswith(("^", "_", "+", "-", "=", "{", "(", r"\cdot", r"\times", "*")):
        return _scaled(head, words, unit)
    # words without \text: only after a number, so that 5x and 2 pi stay what they are
    match = re.match(
        r"([-+]?[\d.,/ ]*\d|[-+]?(?:\d+\s*)?\\frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d))\s*([A-Za-z].*)$",
        text,
    )
    if match:
        bare = _BARE.fullmatch(match.group(2).strip())
        word = bare.group(1).lower() if bare else ""
        phrase = match.group(2).strip().lower()
        if word and len(word) > 1 and (word in _UNIT or word in _SCALES) or re.fullmatch(r"(?:square|cubic) [a-z]+", phrase):
            return _scaled(match.group(1).strip(), match.group(2).strip(), unit)
        if re.fullmatch(r"[a-z]{3,}(?: [a-z]+)*", phrase) and word not in FUNCTIONS:
            return _scaled(match.group(1).strip(), match.group(2).strip(), unit)
    return text, unit


# Words behind a number that are no unit of it.
FUNCTIONS = frozenset(
    ["pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "lim", "max", "min", "gcd", "lcm", "mod"]
    + ["choose", "frac", "times", "and", "or", "abc", "xyz"]
)


def _scaled(head: str, words: str, unit: str) -> tuple[str, str]:
    """`5 million dollars` is 5000000, in dollars."""
    first, _, rest = words.partition(" ")
    value = number(head)
    if first.lower() in _SCALES and isinstance(value, Fraction):
        return str(value * 10 ** _SCALES[first.lower()]), unit or (unit_name(rest) if rest else "")
    return head, unit_name(words) if words else unit


# ---------------------------------------------------------------- algebra

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651")
_ALGEBRA = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\[a-zA-Z]+|[a-zA-Z]|\S")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(?=[\d{])(\d)?")
_KNOWN = re.compile(r"\\(?:frac|sqrt|pi|cdot|times)(?![a-zA-Z])")
_UNKNOWN = re.compile(r"[a-zA-Z]{3,}|pi|ln|oo|[A-Zefghi]|\\")
_POINTS = ((997, 0), (499, 1), (211, 2))  # letters stand for values in (0, 1), (1, 2) and (2, 3)
_LARGEST = Decimal("1e30")  # beyond it 100 digits could not tell x and x + 1 apart safely
_SMALLEST, _NOISE, _VISIBLE = Decimal("1e-30"), Decimal("1e-75"), Decimal("1e-15")


class _NotAlgebra(Exception):
    pass


@lru_cache(maxsize=8192)
def samples(text: str) -> tuple[Decimal, ...] | None:
    r"""The values of arithmetic at three points (a number: three times the same), to 100 digits; None if it is more than that.

    Known are numbers, letters, \pi, + - \cdot \times * /, \frac, \sqrt, powers and brackets. What LaTeX leaves open
    (1/2x, f(2), e, i, roots of letters) is left to math-verify.

    >>> samples(r"(x+1)(x-1)") == samples(r"x^{2}-1"), samples(r"\sin x")
    (True, None)
    """
    value = number(text)
    with localcontext(prec=100, Emax=10_000, Emin=-10_000):
        if isinstance(value, Fraction):
            ratio = Decimal(value.numerator) / Decimal(value.denominator)
            return (ratio,) * 3 if abs(ratio) < _LARGEST else None
        if len(text) > 200 or _UNKNOWN.search(_KNOWN.sub(" ", text)):
            return None
        spelled = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), text)
        tokens = [match.group() for match in _ALGEBRA.finditer(spelled)]
        try:
            values = tuple(_Algebra(tokens, scale, shift).value() for scale, shift in _POINTS)
        except (ArithmeticError, IndexError, _NotAlgebra, ValueError):
            return None
    return values if all(v.is_finite() and abs(v) < _LARGEST for v in values) else None


def agree(x: tuple[Decimal, ...], y: tuple[Decimal, ...]) -> bool | None:
    """Are the values the same at every point? None where 100 digits do not tell."""
    verdict: bool | None = True
    for a, b in zip(x, y, strict=True):
        if a == b:
            continue
        size = max(abs(a), abs(b))
        if size < _SMALLEST:
            verdict = None  # a difference of equal things, or something tiny
        elif abs(a - b) > size * _VISIBLE:
            return False
        elif abs(a - b) > size * _NOISE:
            verdict = None
    return verdict


def constant_ratio(x: tuple[Decimal, ...], y: tuple[Decimal, ...]) -> int | None:
    """The sign of y / x where that is the same at every point, 0 where it is not, None where 100 digits do not tell."""
    if any(min(abs(a), abs(b)) < _SMALLEST for a, b in zip(x, y, strict=True)):
        return None
    with localcontext(prec=100):
        ratios = tuple(b / a for a, b in zip(x, y, strict=True))
    same = agree(ratios, (ratios[0],) * len(ratios))
    return same if not same else 1 if ratios[0] > 0 else -1


class _Algebra:
    """Recursive descent over tokens, at one point. Brackets nest at most as deep as `answers.malformed` lets through."""

    def __init__(self, tokens: list[str], scale: int, shift: int) -> None:
        self.tokens, self.scale, self.shift, self.at = [*tokens, ""], scale, shift, 0
        self.letters = 0  # how many were read so far: tells whether a base or an exponent is constant

    def value(self) -> Decimal:
        result = self.sum()
        if self.tokens[self.at]:
            raise _NotAlgebra
        return result

    def take(self, token: str) -> bool:
        if self.tokens[self.at] != token:
            return False
        self.at += 1
        return True

    def sum(self) -> Decimal:
        negative = self.take("-")
        if not negative:
            self.take("+")
        total = -self.product() if negative else self.product()
        while self.tokens[self.at] in ("+", "-"):
            sign = 1 if self.take("+") else -1
            self.at += sign < 0
            total += sign * self.product()
        return total

    def product(self) -> Decimal:
        result = self.power()
        divided = False
        while True:
            token = self.tokens[self.at]
            if token in ("*", r"\cdot", r"\times"):
                self.at += 1
                result *= self.power()
            elif token == "/":
                self.at += 1
                result /= self.power()
                divided = True
            elif token == "(" or token == "{" or token == r"\sqrt" or token == r"\pi" or token.isalpha():
                if divided:  # is 1/2x half of x, or one by 2x?
                    raise _NotAlgebra
                result *= self.power()
            elif token == r"\frac" and not self.tokens[self.at - 1][-1].isdigit():  # 2\frac13 may be a mixed number
                if divided:
                    raise _NotAlgebra
                result *= self.power()
            else:
                return result

    def power(self) -> Decimal:
        before = self.letters
        base = self.atom()
        if not self.take("^"):
            return base
        constant_base = self.letters == before
        before = self.letters
        exponent = self.group() if self.tokens[self.at] == "{" else Decimal(self.tokens[self.at])
        if self.tokens[self.at - 1] != "}":
            self.at += 1
        whole = exponent == exponent.to_integral_value() and self.letters == before
        if abs(exponent) > 100 or not whole and (base <= 0 or not constant_base):
            raise _NotAlgebra
        return base ** (int(exponent) if whole else exponent)

    def group(self) -> Decimal:
        if not self.take("{"):
            token = self.tokens[self.at]
            if len(token) == 1 and token.isalnum() or token == r"\pi":
                return self.atom()
            raise _NotAlgebra
        result = self.sum()
        if not self.take("}"):
            raise _NotAlgebra
        return result

    def atom(self) -> Decimal:
        token = self.tokens[self.at]
        self.at += 1
        if token[:1].isdigit() or token[:1] == "." and len(token) > 1:
            return Decimal(token)
        if token == "{":
            self.at -= 1
            return self.group()
        if token == "(":
            result = self.sum()
            if not self.take(")"):
                raise _NotAlgebra
            return result
        if token == r"\pi":
            return +_PI
        if token == r"\frac":
            top = self.group()
            return top / self.group()
        if token == r"\sqrt":
            before, degree = self.letters, 2
            if self.take("["):
                degree = int(self.tokens[self.at])
                self.at += 1
                if not self.take("]") or not 2 <= degree <= 20:
                    raise _NotAlgebra
            root = self.group()
            if root < 0 or self.letters != before:
                raise _NotAlgebra
            return root.sqrt() if degree == 2 else root ** (1 / Decimal(degree)) if root else root
        if len(token) == 1 and token.isalpha() and token.isascii():
            self.letters += 1
            return Decimal((ord(token) - 96) * 7919 % self.scale + 1) / (self.scale + 1) + self.shift
        raise _NotAlgebra
