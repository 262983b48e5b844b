"""Numbers, dates and measures of templates, written as the English Wikipedia's modules write them.

``{{convert|1300|mi|km}}`` → 1,300 miles (2,100 km), rounded as ``Module:Convert`` rounds: as precisely as what is given,
with the factor between the units taken into account, and to two significant figures at least. Where a unit is not
known, what is given is written with the unit as it stands.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from pipeline.sources.wikitext.units import MeasureUnit, unit_of

_RANGES = {
    "-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "to(-)": " to ", "x": " by ", "by": " by ", "*": " by ",
    "×": " × ", "xx": " × ", "+/-": " ± ", "±": " ± ", "to about": " to about ", ",": ", ", "&": " & ", "–~": "–", "and(-)": " and ",
    "or(-)": " or ", "plus": " plus ", "+": " + ", "−": "–",
}  # fmt: skip
_NUMBER = re.compile(r"[-−+]?[\d,]*\.?\d+(?:e[-+]?\d+)?\Z")
_ARITHMETIC = re.compile(r"[\d\s.+*/()%e-]+")
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: math.fmod,
    ast.Pow: math.pow,
}
_FRACTION = re.compile(r"([-−]?\d+)?[+ ]?(\d+)[/⁄](\d+)\Z")
_PRECISE = frozenset({"ft", "lb"})
"""Units whose results for whole numbers are finer."""
_IN_TWO = {"ftin": ("ft", "in"), "stlb": ("st", "lb")}
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def group_digits(text: str, comma: str = ",", point: str = ".") -> str:
    """``1234567.89`` with its thousands apart; anything else as it is."""
    found = re.fullmatch(r"([-−+]?)(\d+)(\.\d*)?", text.strip())
    if found is None:
        return text
    whole = f"{int(found[2]):,}".replace(",", comma) if len(found[2]) < 300 else found[2]
    if found[2].startswith("0") and len(found[2]) > 1:
        whole = found[2]
    return f"{found[1]}{whole}{(found[3] or '').replace('.', point)}"


def parse_number(text: str) -> float | None:
    """The value of ``1,300``, ``1.5e3``, ``3/4``, ``2+1/2``."""
    text = text.strip().replace("−", "-")
    if fraction := _FRACTION.match(text):
        whole, above, below = fraction.groups()
        part = int(above) / int(below) if int(below) else 0.0
        return float(whole or 0) + (-part if (whole or "").startswith("-") else part)
    if len(text) > 40 or not _NUMBER.match(text):
        return None
    return float(text.replace(",", ""))


def _shown(text: str) -> str:
    """A given number as it is displayed."""
    text = text.strip()
    if fraction := _FRACTION.match(text):
        whole, above, below = fraction.groups()
        return f"{whole}+{above}⁄{below}" if whole else f"{above}⁄{below}"
    return group_digits(text.replace(",", "").replace("-", "−")) if parse_number(text) is not None else text


def _converted(value: float, given: MeasureUnit, wanted: MeasureUnit) -> float:
    if given.kind != "temperature":
        return value * given.factor / wanted.factor
    celsius = {"C": value, "F": (value - 32) / 1.8, "K": value - 273.15}[given.code]
    return {"C": celsius, "F": celsius * 1.8 + 32, "K": celsius + 273.15}[wanted.code]


def _precision(text: str, value: float, result: float, given: MeasureUnit, wanted: MeasureUnit) -> int:
    """Digits after the point of a result, negative for noughts before it."""
    plain = text.strip().replace(",", "").lstrip("-−+")
    if "." in plain:
        precision = len(plain.partition(".")[2])
    elif "/" in plain:
        precision = 1
    else:
        precision = -(len(plain) - len(plain.rstrip("0"))) if plain.strip("0") else 0
    if given.kind == "temperature":
        return max(precision, 0)
    if value and result:
        factor = abs(result / value)
        if wanted.code in _PRECISE and value == int(value):
            factor = given.factor  # of the base unit alone: 93 m are 305 feet, not 310
        precision += math.floor(math.log10(2 / factor))
        precision = max(precision, 1 - math.floor(math.log10(abs(result))))
    return precision


def round_to(value: float, precision: int) -> str:
    """Half up, with grouped thousands and a true minus."""
    try:
        number = Decimal(repr(value)).quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP)
    except InvalidOperation:
        return f"{value:g}"
    text = f"{number:f}" if precision > 0 else f"{int(number)}"
    return group_digits(text.replace("-", "−"))


def convert(positional: list[str], named: dict[str, str], abbreviate: bool = False) -> str | None:
    """``{{convert}}``; ``abbreviate`` for ``{{cvt}}``. None where there is no value."""
    values, joints, rest = _values(positional)
    if not values:
        return None
    if not rest:
        return _joined([_shown(value) for value in values], joints)
    code, rest = rest[0].strip(), rest[1:]
    given = unit_of(code)
    if given is not None and rest and parse_number(rest[0]) is not None and len(rest) > 1:
        second = unit_of(rest[1])
        if second and second.kind == given.kind and second.factor < given.factor and not unit_of(rest[0]):
            return _compound(values, given, rest, second, named, abbreviate)
    shown = _joined([_shown(value) for value in values], joints)
    abbreviation = named.get("abbr", "on" if abbreviate else "out")
    if given is None:
        return f"{shown} {code}"
    left = f"{shown}{_unit_text(given, values[-1], named, short=abbreviation in ('on', 'in', 'values'))}"
    results = [
        result
        for unit in _wanted(given, rest)
        if (result := _result(values, joints, given, unit, rest, named, abbreviation)) is not None
    ]
    if two := next((_IN_TWO[code] for code in rest if code in _IN_TWO), None):
        results = _results_in_two(values, joints, given, two, abbreviation not in ("off", "in"))
    return _displayed(left, results, named.get("disp", ""))


def _values(positional: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Numbers, the words between them, and what follows."""
    values, joints = [], []
    at = 0
    while at < len(positional) and parse_number(positional[at]) is not None:
        values.append(positional[at].strip())
        at += 1
        joint = _RANGES.get(positional[at].strip()) if at < len(positional) else None
        if joint is None or at + 1 >= len(positional) or parse_number(positional[at + 1]) is None:
            break
        joints.append(joint)
        at += 1
    return values, joints, [part for part in positional[at:] if part.strip()]


def _joined(numbers: list[str], joints: list[str]) -> str:
    text = numbers[0]
    for joint, number in zip(joints, numbers[1:], strict=False):
        text += joint + number
    return text


def _wanted(given: MeasureUnit, rest: list[str]) -> list[MeasureUnit]:
    """The units of the result: those named (``km mi``), or the given one's default."""
    named = [part for part in rest if parse_number(part) is None]
    if not named:
        default = unit_of(given.default)
        return [default] if default else []
    first = unit_of(named[0])
    units = [first] if first else [unit for code in named[0].split() if (unit := unit_of(code))]
    return [unit for unit in units if unit.kind == given.kind]


def _result(
    values: list[str],
    joints: list[str],
    given: MeasureUnit,
    wanted: MeasureUnit,
    rest: list[str],
    named: dict[str, str],
    abbreviation: str,
) -> str | None:
    given_values = [parse_number(text) or 0.0 for text in values]
    results = [_converted(value, given, wanted) for value in given_values]
    if not all(map(math.isfinite, results)):
        return None
    # The ends of a range are equally precise: 20–30 cm are 7.9–11.8 in.
    precision = max(
        _asked_precision(text, value, result, given, wanted, rest, named)
        for text, value, result in zip(values, given_values, results, strict=True)
    )
    numbers = [round_to(result, precision) for result in results]
    return _joined(numbers, joints) + _unit_text(
        wanted, numbers[-1], {**named, "adj": ""}, short=abbreviation not in ("off", "in")
    )


def _results_in_two(
    values: list[str], joints: list[str], given: MeasureUnit, codes: tuple[str, str], short: bool
) -> list[str]:
    """``180 cm`` as ``5 ft 11 in``."""
    large, small = (unit_of(code) for code in codes)
    numbers = [parse_number(text) or 0.0 for text in values]
    if large is None or small is None or large.kind != given.kind or min(numbers) < 0:
        return []
    shown = []
    for value in numbers:
        whole, rest = divmod(round(_converted(value, given, small)), round(large.factor / small.factor))
        parts = [
            f"{number:,}{_unit_text(unit, str(number), {}, short)}" for number, unit in ((whole, large), (rest, small))
        ]
        shown.append(" ".join(parts))
    return [_joined(shown, [" – " if joint == "–" else joint for joint in joints])]


def _asked_precision(
    text: str,
    value: float,
    result: float,
    given: MeasureUnit,
    wanted: MeasureUnit,
    rest: list[str],
    named: dict[str, str],
) -> int:
    digits = [part.strip() for part in rest if re.fullmatch(r"\s*[-−]?\d{1,2}\s*", part)]
    if digits:
        return int(digits[0].replace("−", "-"))
    figures = named.get("sigfig", "")
    if figures.isdigit() and 0 < int(figures) < 15 and result:
        return int(figures) - 1 - math.floor(math.log10(abs(result)))
    return _precision(text, value, result, given, wanted)


def _unit_text(unit: MeasureUnit, number: str, named: dict[str, str], short: bool) -> str:
    """The unit behind its number, as a symbol or a name in the right number, hyphenated as an adjective."""
    american = named.get("sp", "") == "us"
    adjective = named.get("adj", "") in ("on", "mid")
    if short or unit.kind.startswith("temperature"):
        symbol = unit.symbol
        space = "" if symbol.startswith(("/", "×")) else " "
        return f"{space}{symbol}"
    one = number.replace(",", "") in ("1", "-1", "−1")
    name = unit.name if one or adjective else unit.plural
    if american:
        name = name.replace("metre", "meter").replace("litre", "liter")
    return f"-{name.replace(' ', '-')}" if adjective else f" {name}"


def _displayed(left: str, results: list[str], how: str) -> str:
    if not results:
        return left
    right = "; ".join(results)
    return {
        "or": f"{left} or {right}", "b": f"{left} ({right})", "br": f"{left} ({right})", "output only": right, "out": right,
        "comma": f"{left}, {right}", "sqbr": f"{left} [{right}]", "flip": f"{right} ({left})",
        "preunit": f"{left} ({right})", "slash": f"{left}/{right}", "output number only": right.split(" ")[0],
    }.get(how, f"{left} ({right})")  # fmt: skip


def _compound(
    values: list[str], given: MeasureUnit, rest: list[str], second: MeasureUnit, named: dict[str, str], abbreviate: bool
) -> str:
    """``{{convert|5|ft|10|in}}``: two units of one measure."""
    short = abbreviate or named.get("abbr") in ("on", "in")
    left = (
        f"{_shown(values[0])}{_unit_text(given, values[0], named, short)}"
        f" {_shown(rest[0])}{_unit_text(second, rest[0], named, short)}"
    )
    total = (parse_number(values[0]) or 0.0) + (parse_number(rest[0]) or 0.0) * second.factor / given.factor
    inner = (parse_number(values[0]) or 0.0) * given.factor / second.factor + (parse_number(rest[0]) or 0.0)
    results = []
    fallback = "m" if given.kind == "length" else given.default
    for unit in _wanted(given, rest[2:]) if rest[2:] else [unit_of(fallback)]:
        if unit is not None:
            result = _converted(total, given, unit)
            precision = _asked_precision(f"{inner:g}", inner, result, second, unit, rest[2:], named)
            if result and not rest[3:]:  # two numbers are more precise than one
                precision = max(precision, 2 - math.floor(math.log10(abs(result))))
            results.append(round_to(result, precision) + _unit_text(unit, "2", {}, short=named.get("abbr") != "off"))
    return _displayed(left, results, named.get("disp", ""))


def spelled_date(year: str, month: str = "", day: str = "", day_first: bool = False) -> str:
    """``May 6, 1950`` or ``6 May 1950``, or as much of it as there is."""
    name = MONTHS[int(month) - 1] if month.isdigit() and 1 <= int(month) <= 12 else month
    if not name:
        return year
    if not day:
        return f"{name} {year}".strip()
    day = day.lstrip("0") or day
    return f"{day} {name} {year}".strip() if day_first else f"{name} {day}, {year}".strip(" ,")


def evaluate(expression: str) -> str | None:
    """``{{#expr: 100 / 3 round 2}}``: arithmetic, as much of it as pages use; None for anything else."""
    plain, rounded, digits = expression.lower().replace("−", "-").partition("round")
    plain = plain.replace("^", "**").replace("mod", "%").strip()
    if len(plain) > 200 or not _ARITHMETIC.fullmatch(plain) or (rounded and not digits.strip().isdecimal()):
        return None
    try:
        value = _arithmetic(ast.parse(plain, mode="eval").body)
        return f"{round(value, int(digits[:4])) if rounded else value:.14g}"
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _arithmetic(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _arithmetic(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and (calculate := _OPERATORS.get(type(node.op))):
        return float(calculate(_arithmetic(node.left), _arithmetic(node.right)))
    raise ValueError("no arithmetic")
