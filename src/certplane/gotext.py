"""How Go prints values, because the wire repeats it.

Kubernetes builds its error texts with Go's formatting verbs, and clients compare those texts. This module knows the
few forms that reach the wire; it knows nothing of errors, objects or requests.

Sources: Go `strconv.Quote`, `encoding/json`, `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

_QUOTE_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}

_json_encode = msgspec.json.Encoder().encode


def quote(text: str) -> str:
    """`%q` of a string: printable runes stay, everything else is escaped."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    out = ['"']
    for char in text:
        escape = _QUOTE_ESCAPES.get(char)
        if escape is not None:
            out.append(escape)
        elif char == " " or _is_printable(char):
            out.append(char)
        elif (code := ord(char)) < 0x80:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    out.append('"')
    return "".join(out)


def _is_printable(char: str) -> bool:
    # Go's unicode.IsPrint: letters, marks, numbers, punctuation, symbols; of the spaces only U+0020.
    return unicodedata.category(char)[0] in "LMNPS"


def quote_all(texts: Iterable[str]) -> str:
    """`%q` of a slice of strings: `["a" "b"]`."""
    return "[" + " ".join(quote(text) for text in texts) + "]"


def escape_html(document: bytes) -> bytes:
    """Escape `&`, `<`, `>`, U+2028 and U+2029 in encoded JSON, as `encoding/json` does.

    In JSON these characters occur only inside strings, so a replacement of bytes is exact.
    """
    if b"&" in document:
        document = document.replace(b"&", b"\\u0026")
    if b"<" in document:
        document = document.replace(b"<", b"\\u003c")
    if b">" in document:
        document = document.replace(b">", b"\\u003e")
    # One byte is looked for many times as fast as three.
    if b"\xe2" in document:
        document = document.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return document


def json_text(value: Any) -> str:
    """`json.Marshal` of a value made of builtins; bytes become base64, None becomes null."""
    if isinstance(value, bytes):
        value = base64.b64encode(value).decode("ascii")
    return escape_html(_json_encode(value)).decode("utf-8")


def parse_uint(text: str) -> int:
    """`strconv.ParseUint` for 64 bits, in base 10. Raises ValueError with its text."""
    why = "invalid syntax"
    if text.isascii() and text.isdigit():
        # The length first: Python does not read numbers of any length either.
        significant = text.lstrip("0") or "0"
        if len(significant) <= _LONGEST_UINT and int(significant) < 1 << 64:
            return int(significant)
        why = "value out of range"
    raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: {why}")


_LONGEST_UINT: Final = 20


def shortened(text: str, limit: int) -> str:
    """A text of more than `limit` characters without its middle, where the value stands that made it long: what it is
    about comes first, and what is wrong last.
    """
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end]}... ({len(text) - limit} characters left out) ...{text[len(text) - end :]}"


def plain(value: Any) -> str:
    """`%v` of a decoded document: maps with sorted keys, lists, and bare values."""
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{plain(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(plain, value)) + "]"
    if value is None:
        return "<nil>"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def syntax(value: Any) -> str:
    """`%#v` of a decoded value."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{syntax(name)}:{syntax(each)}" for name, each in sorted(value.items()))
        return f"map[string]interface {{}}{{{inner}}}"
    if isinstance(value, list):
        return "[]interface {}{" + ", ".join(map(syntax, value)) + "}"
    if value is None:
        return "interface {}(nil)"
    return quote(value) if isinstance(value, str) else plain(value)


def as_string(value: Any) -> str:
    """`%s` of a decoded value: what is no string says so, wherever it is; a null inside of something does not."""
    if value is None:
        return "%!s(<nil>)"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_inner_string(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_inner_string, value)) + "]"
    return value if isinstance(value, str) else f"%!s({type_name(value)}={plain(value)})"


def _inner_string(value: Any) -> str:
    return "<nil>" if value is None else as_string(value)


def type_name(value: Any) -> str:
    """`%T` of a decoded value."""
    if isinstance(value, Mapping):
        return "map[string]interface {}"
    if isinstance(value, list):
        return "[]interface {}"
    names = {"str": "string", "bool": "bool", "int": "int64", "float": "float64", "NoneType": "<nil>"}
    return names[type(value).__name__]


def human_duration(seconds: float) -> str:
    """The short form of a duration in tables: `59s`, `3m10s`, `25h`, `364d`; two units at the most, truncated."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(hours // 24, "d", hours % 24, "h")
    days = hours // 24
    if hours < 17520:
        return f"{days}d"
    if hours < 70080:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


#: From which exponent on Go prints one: its choice for numbers that are printed with as many digits as they need.
_FIRST_EXPONENT: Final = 6


def float_text(value: float) -> str:
    """`strconv.FormatFloat(value, 'g', -1, 64)`: the fewest digits that give the value back, and below 0.0001 and
    from a million on an exponent of at least two digits.
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    # Python finds the same digits, but begins with exponents elsewhere.
    shortest = decimal.Decimal(repr(float(value)))
    exponent = shortest.adjusted() if shortest else 0
    if not -4 <= exponent < _FIRST_EXPONENT:
        mantissa = shortest.scaleb(-exponent).normalize()
        return f"{mantissa:f}e{exponent:+03d}"
    return f"{shortest.normalize():f}"


def time_text(moment: datetime.datetime) -> str:
    """`time.Time.String()` of a moment in UTC, as certificate errors print it: `2026-01-02 15:04:05 +0000 UTC`."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


# --- durations ----------------------------------------------------------------------------------------------------

_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)")
#: Seconds that fit into 63 bits of nanoseconds.
_LONGEST_DURATION: Final = 2**63 / 1e9
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_duration(text: str) -> datetime.timedelta | None:
    """A duration as Go writes it, `8760h0m0s`; None if it is not one, or one that is longer than Go's can be."""
    # Go takes a bare zero, and no other number without a unit.
    at, seconds = len(text) if text == "0" else 0, 0.0
    while at < len(text):
        part = _DURATION_PART.match(text, at)
        if part is None:
            return None
        seconds += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not text or seconds > _LONGEST_DURATION:
        return None
    return datetime.timedelta(seconds=seconds)
