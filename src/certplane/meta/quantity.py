"""Quantities: numbers with a unit, as Kubernetes writes them: `500m`, `2`, `1Gi`, `1e3`.

An amount has many spellings and a canonical one, in which it is stored: the largest unit that needs no fraction.
Nothing here computes with quantities. Source: `k8s.io/apimachinery/pkg/api/resource/quantity.go`.
"""

from __future__ import annotations

import decimal
import re
from typing import Final

# Possessive quantifiers: backtracking over the digits would take quadratic time.
_FORM: Final = re.compile(r"([+-]?[0-9.]++)([eEinumkKMGTP]*[-+]?[0-9]*)", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?([0-9]++\.?[0-9]*|\.[0-9]+)", re.ASCII)
_EXPONENT: Final = re.compile(r"[eE][+-]?[0-9]{1,4}", re.ASCII)
#: Powers of ten and powers of 1024, by suffix.
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL_SUFFIX: Final = {power: suffix for suffix, power in _DECIMAL.items()}
_BINARY_SUFFIX: Final = {power: suffix for suffix, power in _BINARY.items()}
_LARGEST: Final = decimal.Decimal(2**63 - 1)
_NANO: Final = decimal.Decimal("1e-9")
_EXACT: Final = decimal.Context(prec=60, rounding=decimal.ROUND_UP)

FORMAT_ERROR: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def canonical(text: str) -> str:
    """The canonical spelling of a quantity. Raises ValueError with Go's text."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(FORMAT_ERROR)
    number, suffix = match.groups()
    if not _NUMBER.fullmatch(number):
        raise ValueError("unable to parse numeric part of quantity")
    value = decimal.Decimal(number)
    if suffix in _BINARY:
        return _binary(_capped(_EXACT.multiply(value, decimal.Decimal(1024 ** _BINARY[suffix]))))
    if suffix in _DECIMAL:
        return _decimal(_capped(_EXACT.scaleb(value, _DECIMAL[suffix])))
    if not _EXPONENT.fullmatch(suffix):
        raise ValueError("unable to parse quantity's suffix")
    return _with_exponent(_capped(_EXACT.scaleb(value, int(suffix[1:]))))


def _capped(value: decimal.Decimal) -> decimal.Decimal:
    """A value limited to what Kubernetes stores: at most 2**63 - 1, and whole billionths, rounded up."""
    if abs(value) > _LARGEST:
        return _LARGEST.copy_sign(value)
    return _EXACT.quantize(value, _NANO)


def _parts(value: decimal.Decimal) -> tuple[int, int]:
    """An integer and a power of ten, the largest multiple of three that needs no fraction."""
    if not value:
        return 0, 0
    sign, digits, exponent = value.normalize(_EXACT).as_tuple()
    assert isinstance(exponent, int)  # noqa: S101 - the value is a number
    amount = int("".join(map(str, digits))) * (-1 if sign else 1)
    surplus = exponent % 3
    return amount * 10**surplus, exponent - surplus


def _decimal(value: decimal.Decimal) -> str:
    amount, power = _parts(value)
    while power not in _DECIMAL_SUFFIX:
        amount, power = amount * 1000, power - 3
    return f"{amount}{_DECIMAL_SUFFIX[power]}"


def _with_exponent(value: decimal.Decimal) -> str:
    amount, power = _parts(value)
    return f"{amount}e{power}" if power else str(amount)


def _binary(value: decimal.Decimal) -> str:
    if -1024 < value < 1024:
        return _decimal(value)
    amount, power = int(value.to_integral_value(decimal.ROUND_UP)), 0
    while amount % 1024 == 0 and power < max(_BINARY_SUFFIX):
        amount, power = amount // 1024, power + 1
    return f"{amount}{_BINARY_SUFFIX.get(power, '')}"
