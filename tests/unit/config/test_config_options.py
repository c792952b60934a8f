"""How the values of settings are read, and which are refused."""

from __future__ import annotations

import pytest

from certplane.config import options, servesettings
from certplane.errors import SetupError


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.2.0.1/16", "10.2.0.0/16"),
        ("10.2.0.1/255.255.0.0", "10.2.0.0/16"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("10.2.0.0/16", ""),
        ("10.2.0.1", ""),
        ("10.2.0.1/33", ""),
        ("10.2.0.1/", ""),
        ("example.com/16", ""),
        ("", ""),
    ],
)
def test_the_network_of_an_address(text, network):
    """If the text is an address with a prefix length and host bits, and otherwise empty."""
    assert options.network_meant(text) == network


#: How 5000 digits are quoted, and an address with as many digits.
SHORT_DIGITS = f"{'9' * 75}... (4900 characters omitted) ...{'9' * 25}"
SHORT_ADDRESS = f"127.0.0.1:{'9' * 65}... (4910 characters omitted) ...{'9' * 25}"


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("x", "must be a number, at least 1: x"),
        ("0", "must be a number, at least 1: 0"),
        ("-1", "must be a number, at least 1: -1"),
        ("9223372036854775808", "must be at most 9223372036854775807: 9223372036854775808"),
        ("9" * 5000, f"must be at most 9223372036854775807: {SHORT_DIGITS}"),
    ],
)
def test_invalid_numbers_are_refused(number, problem):
    """Also those of so many digits that Python does not read them."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({"max_requests_inflight": number}, {})
    assert caught.value.message == f"--max-requests-inflight: {problem}"


def test_leading_zeros_of_a_number_do_not_count():
    """However many there are."""
    problems = []
    number = options.Option("number", "", "number")
    assert options.Values([number], {"number": "0" * 5000 + "7"}, {}, problems).number("number", 1) == 7
    assert problems == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("listen", "a string"),
        ("max-requests-inflight", "a number"),
        ("event-ttl", "a duration such as 1h30m"),
        ("client-ca-file", "a path"),
        ("log-level", "a string"),
    ],
)
def test_a_value_of_another_type_in_a_file_is_refused(name, expected):
    """The error has the type of the setting."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({}, {name: True})
    assert caught.value.message == f"{name}: must be {expected}, not True"


@pytest.mark.parametrize(("flags", "file"), [({"data_dir": ""}, {}), ({}, {"data-dir": ""})])
def test_an_empty_data_directory_is_refused(flags, file):
    """It would be the current directory, for example because a variable in a script is not set."""
    with pytest.raises(SetupError, match="--data-dir: must not be empty"):
        servesettings.read(flags, file)


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("127.0.0.1:99999", "--listen: port 99999 is above 65535: 127.0.0.1:99999"),
        ("127.0.0.1:x", "--listen: not HOST:PORT: 127.0.0.1:x"),
        ("127.0.0.1", "--listen: not HOST:PORT: 127.0.0.1"),
        (":6443", "--listen: not HOST:PORT: :6443"),
        ("[::1:6443", "--listen: not HOST:PORT: [::1:6443"),
        ("::1]:6443", "--listen: not HOST:PORT: ::1]:6443"),
        (
            "127.0.0.1:" + "9" * 5000,
            f"--listen: port {SHORT_DIGITS} is above 65535: {SHORT_ADDRESS}",
        ),
    ],
)
def test_invalid_listen_addresses_are_refused(listen, problem):
    """The error says which part is invalid."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({"listen": listen}, {})
    assert caught.value.message == problem


def test_a_duration_without_a_unit_is_refused():
    """The error shows the syntax."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({"event_ttl": "3"}, {})
    assert caught.value.message == "--event-ttl: not a duration: 3; write 3s for 3 seconds"


def test_an_unknown_setting_is_refused():
    """A similar name is suggested."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({}, {"listn": "127.0.0.1:6443"})
    assert caught.value.message == 'unknown setting "listn" in the configuration file; did you mean "listen"?'


OPTIONS = (
    options.Option("enabled", "", "flag", True),
    options.Option("hosts", "", "names", ("a",)),
    options.Option("level", "", "choice", "low", ("low", "high")),
    options.Option("size", "", "number", "5"),
    options.Option("gates", "", "names", ()),
    options.Option("file", "", "path", None),
)


def read(flags=None, file=None):
    problems = []
    return options.Values(OPTIONS, flags or {}, file or {}, problems), problems


@pytest.mark.parametrize(
    ("flags", "file", "expected"),
    [
        ({}, {}, (True, ("a",), "low", 5)),
        (
            {"enabled": None, "hosts": None},
            {"enabled": False, "hosts": [" b", "", "c "], "level": "high", "size": 7},
            (False, ("b", "c"), "high", 7),
        ),
        (
            {"enabled": True, "hosts": "d, e,", "size": "9"},
            {"enabled": False, "hosts": "b"},
            (True, ("d", "e"), "low", 9),
        ),
    ],
)
def test_flags_override_the_file_and_the_file_overrides_defaults(flags, file, expected):
    """A flag that was not set is None. Names are a list in a file, or a text with commas."""
    values, problems = read(flags, file)
    assert (values.flag("enabled"), values.names("hosts"), values.text("level"), values.number("size", 0)) == expected
    assert problems == []


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ({"enabled": "yes"}, "enabled: must be true or false, not 'yes'"),
        ({"hosts": {"a": 1}}, "hosts: must be a list of strings, not {'a': 1}"),
        ({"level": "middle"}, "level: must be one of low, high, not middle"),
        ({"level": None}, "level: must be a string, not None"),
        ({"size": True}, "size: must be a number, not True"),
        ({"level": "a\0b"}, "--level: has a NUL character"),
        ({"hosts": ["a", "b\0c"]}, "--hosts: has a NUL character"),
        ({"hosts": ["a\ud800"]}, "--hosts: is not valid UTF-8"),
        ({"file": "a\ud800"}, "--file: is not valid UTF-8"),
        ({"hosts": ["a", 1]}, "hosts: must be a list of strings, not ['a', 1]"),
        ({"hosts": ["a", None]}, "hosts: must be a list of strings, not ['a', None]"),
        ({"hosts": ["a", ["b"]]}, "hosts: must be a list of strings, not ['a', ['b']]"),
        ({"enabled": 1}, "enabled: must be true or false, not 1"),
        ({"level": "9" * 5000}, f"level: must be one of low, high, not {SHORT_DIGITS}"),
    ],
)
def test_values_of_the_wrong_type_are_refused(file, problem):
    """With the name of the setting."""
    _, problems = read(file=file)
    assert problem in problems


@pytest.mark.parametrize(
    ("option", "text", "problem"),
    [
        ("file", "/\udcff", ""),
        ("level", "\udcff", "--level: is not valid UTF-8"),
        ("hosts", "a,\udcff", "--hosts: is not valid UTF-8"),
    ],
)
def test_arguments_that_are_not_utf_8_are_refused_unless_they_are_paths(option, text, problem):
    """A path may have any bytes."""
    _, problems = read({option: text})
    assert problems == ([problem] if problem else [])


@pytest.mark.parametrize("text", ["4", "-5", "5.0", "\u0665", "five", ""])
def test_numbers_are_decimal_and_have_a_minimum(text):
    """The minimum is returned instead."""
    values, problems = read({"size": text})
    assert values.number("size", 5) == 5
    assert problems == [f"--size: must be a number, at least 5: {text}"]


def test_switches():
    """A key alone is true; other values than true and false are refused."""
    values, problems = read({"gates": "a,b=false,c=true,d=0"})
    switches = values.switches("gates")
    assert (switches["a"], switches["b"], switches["c"]) == (True, False, True)
    assert problems == ["--gates: must be true or false: d=0"]
