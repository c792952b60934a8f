"""Go's formatting of values: the verbs of `fmt`, JSON, and durations.

Kubernetes builds its error texts with these verbs, and clients compare the texts. Only the forms that reach the wire
are implemented.

Source: Go `strconv.Quote`, `encoding/json`, `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

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
    """`%q` of a string: printable characters stay, all others are escaped."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    parts = ['"']
    for char in text:
        escape = _QUOTE_ESCAPES.get(char)
        if escape is not None:
            parts.append(escape)
        elif char == " " or _is_printable(char):
            parts.append(char)
        elif (code := ord(char)) < 0x80:
            parts.append(f"\\x{code:02x}")
        elif code < 0x10000:
            parts.append(f"\\u{code:04x}")
        else:
            parts.append(f"\\U{code:08x}")
    parts.append('"')
    return "".join(parts)


def _is_printable(char: str) -> bool:
    # Go's unicode.IsPrint: letters, marks, numbers, punctuation, symbols; of the spaces only U+0020.
    return unicodedata.category(char)[0] in "LMNPS"


def quote_all(texts: Iterable[str]) -> str:
    """`%q` of a slice of strings: `["a" "b"]`."""
    return "[" + " ".join(quote(text) for text in texts) + "]"


def escape_html(document: bytes) -> bytes:
    """Escape `&`, `<`, `>`, U+2028 and U+2029 in encoded JSON, as `encoding/json` does.

    In JSON these characters occur only inside strings, so bytes can be replaced without parsing.
    """
    if b"&" in document:
        document = document.replace(b"&", b"\\u0026")
    if b"<" in document:
        document = document.replace(b"<", b"\\u003c")
    if b">" in document:
        document = document.replace(b">", b"\\u003e")
    # A search for one byte is many times faster than a search for three.
    if b"\xe2" in document:
        document = document.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return document


def marshal_json(value: object) -> str:
    """`json.Marshal` of a value made of builtins. Bytes become base64, None becomes null."""
    if isinstance(value, bytes):
        value = base64.b64encode(value).decode("ascii")
    return escape_html(_json_encode(value)).decode("utf-8")


def parse_uint(text: str) -> int:
    """`strconv.ParseUint` for 64 bits, in base 10. Raises ValueError with Go's text."""
    reason = "invalid syntax"
    if text.isascii() and text.isdigit():
        # Python refuses to convert very long numbers, so the length is checked first.
        significant = text.lstrip("0") or "0"
        if len(significant) <= _MAX_UINT_DIGITS and int(significant) < 1 << 64:
            return int(significant)
        reason = "value out of range"
    raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: {reason}")


#: Digits of 2**64.
_MAX_UINT_DIGITS: Final = 20


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of a text of more than `limit` characters. Error texts begin with their subject and end with
    the reason; the middle holds the value that made them long.
    """
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail]}... ({len(text) - limit} characters omitted) ...{text[len(text) - tail :]}"


def truncate(text: str, limit: int) -> str:
    """A text of at most `limit` characters; three dots replace the end of a longer one."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def format_value(value: object) -> str:
    """`%v` of a decoded value: maps with sorted keys, lists, and bare values."""
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{format_value(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(format_value, value)) + "]"
    if value is None:
        return "<nil>"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def format_syntax(value: object) -> str:
    """`%#v` of a decoded value."""
    if isinstance(value, Mapping):
        members = ", ".join(f"{format_syntax(name)}:{format_syntax(item)}" for name, item in sorted(value.items()))
        return f"map[string]interface {{}}{{{members}}}"
    if isinstance(value, list):
        return "[]interface {}{" + ", ".join(map(format_syntax, value)) + "}"
    if value is None:
        return "interface {}(nil)"
    return quote(value) if isinstance(value, str) else format_value(value)


def format_string(value: object) -> str:
    """`%s` of a decoded value. Values that are not strings print as `%!s(type=value)`, a null inside a container as
    `<nil>`.
    """
    if value is None:
        return "%!s(<nil>)"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_format_inner_string(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_format_inner_string, value)) + "]"
    return value if isinstance(value, str) else f"%!s({type_name(value)}={format_value(value)})"


def _format_inner_string(value: object) -> str:
    return "<nil>" if value is None else format_string(value)


def type_name(value: object) -> str:
    """`%T` of a decoded value."""
    if isinstance(value, Mapping):
        return "map[string]interface {}"
    if isinstance(value, list):
        return "[]interface {}"
    names = {"str": "string", "bool": "bool", "int": "int64", "float": "float64", "NoneType": "<nil>"}
    return names[type(value).__name__]


def human_duration(seconds: float) -> str:
    """The short form of a duration in tables: `59s`, `3m10s`, `25h`, `364d`; at most two units, truncated."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        return _two_units(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two_units(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two_units(hours // 24, "d", hours % 24, "h")
    days = hours // 24
    if hours < 17520:
        return f"{days}d"
    if hours < 70080:
        return _two_units(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two_units(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


#: With precision -1 Go prints an exponent from this one on.
_FIRST_EXPONENT: Final = 6


def format_float(value: float) -> str:
    """`strconv.FormatFloat(value, 'g', -1, 64)`: the fewest digits that round-trip, and an exponent of at least two
    digits below 0.0001 and from a million on.
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    # Python's repr has the same digits, but other thresholds for exponents.
    shortest = decimal.Decimal(repr(float(value)))
    exponent = shortest.adjusted() if shortest else 0
    if not -4 <= exponent < _FIRST_EXPONENT:
        mantissa = shortest.scaleb(-exponent).normalize()
        return f"{mantissa:f}e{exponent:+03d}"
    return f"{shortest.normalize():f}"


def format_time(time: datetime.datetime) -> str:
    """`time.Time.String()` of a time in UTC, as in certificate errors: `2026-01-02 15:04:05 +0000 UTC`."""
    return time.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


# --- durations ----------------------------------------------------------------------------------------------------

_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)")
#: Seconds: Go counts durations in 63 bits of nanoseconds.
_MAX_DURATION: Final = 2**63 / 1e9
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_duration(text: str) -> datetime.timedelta | None:
    """A duration as Go writes it, `8760h0m0s`; None for other texts, and for durations that overflow Go's type."""
    # Zero is the only number without a unit that Go accepts.
    offset, seconds = len(text) if text == "0" else 0, 0.0
    while offset < len(text):
        part = _DURATION_PART.match(text, offset)
        if part is None:
            return None
        seconds += float(part[1]) * _UNITS[part[2]]
        offset = part.end()
    if not text or seconds > _MAX_DURATION:
        return None
    return datetime.timedelta(seconds=seconds)
