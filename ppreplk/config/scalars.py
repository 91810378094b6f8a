"""Single values from text.

Text reaches a key on two ways: unquoted in a YAML file, and behind ``-o``. Whole numbers are decimal, as in YAML 1.2:
``010`` is 10, and ``1:30`` is no number. The words for true and false are those of YAML 1.1, as PaddleClas's files
have them.
"""

import re

NULLS = frozenset(("", "~", "null", "Null", "NULL", "None"))
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
BOOL = re.compile(r"(?:{})$".format("|".join(f"{w}|{w.title()}|{w.upper()}" for w in BOOLS)))
INT = re.compile(r"[-+]?(?:0b[01][01_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)$")

# PyYAML's without sexagesimals. It does not have 4e-3, which is text to it; the type of the key makes a number of it.
FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def parse_bool(text: str) -> bool:
    """True or false from one of YAML's words.

    Raises:
        ValueError: it is none of them.
    """
    if not BOOL.match(text):
        raise ValueError(text)
    return BOOLS[text.lower()]


def parse_int(text: str) -> int:
    """The whole number that ``text`` writes, decimal unless it begins with 0x, 0o or 0b.

    Raises:
        ValueError: it is none.

    >>> parse_int("010"), parse_int("0x1F"), parse_int("1_000")
    (10, 31, 1000)
    """
    if not INT.match(text):
        raise ValueError(text)
    digits = text.replace("_", "")
    return int(digits, 0 if re.search("[box]", digits) else 10)


def parse_number(text: str) -> float:
    """The float that ``text`` writes, as a number or as a fraction. PyYAML reads ``4e-3`` as text.

    Raises:
        ValueError: it is neither.

    >>> parse_number("4e-3"), parse_number("1.0/4.0")
    (0.004, 0.25)
    """
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    if float(denominator) == 0.0:
        raise ValueError(text)
    return float(numerator) / float(denominator)
