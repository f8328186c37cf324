"""What an unquoted scalar is: YAML 1.2's core schema, without the spellings that YAML 1.1 reads differently.

https://yaml.org/spec/1.2.2/#103-core-schema and https://yaml.org/type/: where the two disagree (`no`, `010`, `1_000`,
`1:30`), readers disagree too, so those are refused rather than read in one of the ways. Dates stay text.
"""

from __future__ import annotations

import re

from ._nodes import Scalar

_CONSTANTS: dict[str, Scalar] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+")

QUOTE = 'Put it in quotes: "…".'

# No two parts of a pattern that follow each other begin alike: what does not match is told in linear time.
# What the scalar looks like → how to call it. No message repeats the scalar: it may be a password.
_TRAPS = (
    (re.compile(r"y|n|yes|no|on|off", re.I), "yes, no, on or off without quotes is a truth value to some YAML readers"),
    (re.compile(r"[-+]?0[0-9_]+"), "a number with a leading zero is octal to some YAML readers"),
    (re.compile(r"[-+]?0[oxb][0-9a-f_]+", re.I), "an octal, hexadecimal or binary number is text to some YAML readers"),
    (
        re.compile(r"[-+]?[0-9]+(?:_[0-9]*)+(?:\.[0-9_]*)?"),
        "a number with an underscore is text to some YAML readers",
    ),
    (
        re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?"),
        "digits with a colon are a number in base 60 to some YAML readers",
    ),
    (
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+\.|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)e[-+]?[0-9]+|\.inf)|\.nan|0[0-9]*\.[0-9]+", re.I
        ),
        "a number of this form is text to some YAML readers",
    ),
)
_TRAP_FIRSTS = frozenset("yYnNoO0123456789+-.<=")


class AmbiguousScalar(ValueError):
    """The unquoted scalar means different things to different YAML readers; the text says how, `hint` what to do."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar; raises `AmbiguousScalar`."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _TRAP_FIRSTS:
        return text
    if _INTEGER.fullmatch(text):
        # Longer than any key or size; Python refuses to read more than 4300 digits.
        return int(text) if len(text) <= 40 else text
    if _DECIMAL.fullmatch(text):
        return float(text)
    if text in ("<<", "="):
        raise AmbiguousScalar(
            "a merge key", "Merging is not read here: write the fields out, or put them under defaults."
        )
    for pattern, why in _TRAPS:
        if pattern.fullmatch(text):
            raise AmbiguousScalar(why, QUOTE)
    return text
