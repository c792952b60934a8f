"""URIs are parsed and printed as in Go."""

from __future__ import annotations

import pytest

from certplane.golang import urls


@pytest.mark.parametrize(
    ("text", "printed", "host"),
    [
        ("", "", ""),
        ("*", "*", ""),
        ("https://a.example", "https://a.example", "a.example"),
        ("HTTPS://A.Example:443/%7eb", "https://A.Example:443/%7eb", "A.Example:443"),
        ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", "td"),
        ("urn:uuid:1?a b#c", "urn:uuid:1?a b#c", ""),
        ("mailto:a b%zz", "mailto:a b%zz", ""),
        ("file:///etc/passwd", "file:///etc/passwd", ""),
        ("foo:/bar", "foo:/bar", ""),
        ("foo://", "foo:", ""),
        ("//a/b", "//a/b", "a"),
        ("///a", "///a", ""),
        ("./a:b", "./a:b", ""),
        ("a%3Ab", "a%3Ab", ""),
        ("https://h/a b?c d#e f", "https://h/a%20b?c d#e%20f", "h"),
        ("https://h/#", "https://h/", "h"),
        ("https://h/?", "https://h/?", "h"),
        ("https://h/a%2fb", "https://h/a%2fb", "h"),
        ("https://h/a%2f b", "https://h/a/%20b", "h"),
        ("https://u:p@h", "https://u:p@h", "h"),
        ("https://u%40v:@h", "https://u%40v:@h", "h"),
        ("https://a%e9b", "https://a%E9b", "a\xe9b"),
        ("https://[::1]:80/", "https://[::1]:80/", "[::1]:80"),
        ("https://[fe80::1%25en0]", "https://[fe80::1%25en0]", "[fe80::1%en0]"),
        ("db://a:1,b:2", "db://a:1,b:2", "a:1,b:2"),
    ],
)
def test_uris_are_normalised(text, printed, host):
    """The scheme is in lower case, and special characters are escaped."""
    assert urls.parse(text) == urls.URI(host, printed)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\tb", "net/url: invalid control character in URL"),
        (":a", "missing protocol scheme"),
        ("1a:b", "first path segment in URL cannot contain colon"),
        ("https://h/%zz", 'invalid URL escape "%zz"'),
        ("https://h/%2", 'invalid URL escape "%2"'),
        ("https://h/#%", 'invalid URL escape "%"'),
        ("https://a%41", 'invalid URL escape "%41"'),
        ("https://a b", 'invalid character " " in host name'),
        ("https://h:x", 'invalid port ":x" after host'),
        ("https://h:1:2", 'invalid port ":1:2" after host'),
        ("https://u x@h", "net/url: invalid userinfo"),
        ("https://[::1", "missing ']' in host"),
        ("https://a[::1]", "invalid IP-literal"),
        ("https://[1.2.3.4]", "invalid IP-literal"),
        ("https://[::1]x", 'invalid port "x" after host'),
        ("https://[a]", 'invalid host: ParseAddr("a"): unable to parse IP'),
        ("https://[::1%25]", 'invalid host: ParseAddr("::1%"): zone must be a non-empty string'),
        ("https://[%25a::1]", 'invalid host: ParseAddr("%a::1"): missing IPv6 address'),
        ("https://[::1%25%3c%01]", 'invalid URL escape "%01"'),
        ("https://[fe80::1%25en%20 0]", 'invalid character " " in host name'),
    ],
)
def test_invalid_uris_are_refused(text, problem):
    """The error quotes the whole text, as in Go."""
    with pytest.raises(urls.URIError) as caught:
        urls.parse(text)
    quoted = text.replace("\t", "\\t")
    assert str(caught.value) == f'parse "{quoted}": {problem}'
