"""Invalid arguments and files: every command answers with `error:`, `hint:` and the documented exit code."""

from __future__ import annotations

import io
import sys

import pytest

from certplane.cli import main

DIGITS = "9" * 5000
#: As Python passes an argument that is not UTF-8.
NOT_UTF_8 = "\udcff"
#: Above the limit of the file system.
LONG_PATH = "x" * 5000


def _assert_refused(arguments, monkeypatch):
    # Like the standard error of a process, which can print any argument.
    error_output = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
    monkeypatch.setattr(sys, "argv", ["certplane", *arguments])
    monkeypatch.setattr(sys, "stderr", error_output)
    with pytest.raises(SystemExit) as ended:
        main.main()
    output = error_output.buffer.getvalue().decode()
    assert ended.value.code == 2, output
    assert output.startswith("error: ")
    assert "\nhint: " in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--listen", ""],
        ["serve", "--listen", f"127.0.0.1:{DIGITS}"],
        ["serve", "--listen", "[::1:6443"],
        ["serve", "--listen", f"{NOT_UTF_8}:6443"],
        ["serve", "--store", "sqlite:"],
        ["serve", "--store", "sqlite:/"],
        ["serve", "--audit-log-path", "/", "--event-ttl", "x"],
        ["serve", "--controllers", NOT_UTF_8],
        ["serve", "--event-ttl", f"{DIGITS}h"],
        ["serve", "--event-ttl", "-1s"],
        ["serve", "--request-timeout", "0s"],
        ["serve", "--audit-log-maxage", DIGITS],
        ["serve", "--max-requests-inflight", "0"],
        ["serve", "--service-account-issuer", NOT_UTF_8],
        ["serve", "--anonymous-auth=maybe"],
        ["serve", "--log-level", ""],
        ["serve", "--config", ""],
        ["serve", "--config", LONG_PATH],
        ["serve", "extra"],
        ["controllers", "--kubeconfig", LONG_PATH],
        ["controllers", "--kube-api-qps", DIGITS],
        ["controllers", "--kube-api-burst", "0"],
        ["controllers", "--listen-health", f"127.0.0.1:{DIGITS}"],
        ["controllers", "--leader-elect-lease-duration", "2562047h"],
        ["controllers", "--leader-elect-retry-period", "0s"],
        ["controllers", "--context", NOT_UTF_8],
        ["controllers", "--controllers", "-*"],
        ["wait", "--timeout", ""],
        ["wait", "--timeout", f"{DIGITS}s"],
        ["wait", "--timeout", "-1s"],
        ["wait", "--pid", "0"],
        ["wait", "--pid", "99999999999"],
        ["wait", "--pid", DIGITS],
        ["wait", "--data-dir", LONG_PATH, "--timeout", "0s"],
        ["wait", "--data-dir", NOT_UTF_8, "--timeout", "0s"],
        ["token", "create", "--ttl", f"{DIGITS}h"],
        ["token", "create", "--description", NOT_UTF_8],
        ["token", "create", NOT_UTF_8],
        ["token", "create", "--groups", NOT_UTF_8],
        ["token", "create", "--usages", NOT_UTF_8],
        ["token", "delete", ""],
        ["token", "delete"],
        ["token", "--kubeconfig", LONG_PATH, "list"],
        ["token", "--kubeconfig", "", "list"],
        ["token", "--kubeconfig", NOT_UTF_8, "list"],
        ["audit", "approvals", "--since", f"{DIGITS}h"],
        ["audit", "approvals", "--since", NOT_UTF_8],
        ["audit", "approvals", "--since", "9999-12-31T23:59:59-23:59"],
        ["audit", "approvals", "--log", ""],
        ["audit", "approvals", "--log", "/"],
        ["audit", "approvals", "--log", LONG_PATH],
        ["audit", "approvals", "--log", NOT_UTF_8],
        ["audit", "approvals", "-o", "x"],
        ["certs", "check-expiration", "--within", f"{DIGITS}d"],
        ["certs", "check-expiration", "--within", NOT_UTF_8],
        ["certs", "check-expiration", "--cert-dir", LONG_PATH],
        ["certs", "check-expiration", "--data-dir", NOT_UTF_8],
        ["certs", "check-expiration", "--config", LONG_PATH],
        ["certs", "check-expiration", "--config", "/dev/zero"],
        ["certs", "check-expiration", "--directory", LONG_PATH],
        ["certs", "check-expiration", "-o", NOT_UTF_8],
        ["certs", "renew", NOT_UTF_8],
        ["certs", "renew", "all", "--cert-dir", LONG_PATH],
        ["certs", "renew", "all", "--cert-dir", NOT_UTF_8],
        ["certs", "generate-csr", "--config", "/"],
        ["certs", "generate-csr", "--data-dir", ""],
        ["certs", "generate-csr", "--cert-dir", ""],
        ["certs", "generate-csr", "--cert-dir", LONG_PATH],
        ["certs", "generate-csr", "--data-dir", "/dev/null"],
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:60],
)
def test_invalid_arguments_are_refused(arguments, monkeypatch, tmp_path):
    """Huge numbers, empty texts, and bytes that are not UTF-8."""
    monkeypatch.chdir(tmp_path)
    _assert_refused(arguments, monkeypatch)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"- a list",
        b"a text",
        b"listen: [1]",
        b"listen: 0x" + b"f" * 5000,
        b"max-requests-inflight: " + DIGITS.encode(),
        b"max-requests-inflight: 1.5",
        b"audit-log-maxage: -1",
        b"tls-san: [a, 1]",
        b"tls-san: [a, null]",
        b'tls-san: ["a\\0"]',
        b'data-dir: "a\\0"',
        b'data-dir: "\\ud800"',
        b"event-ttl: .inf",
        b"event-ttl: 2026-01-01",
        b"log-level: no",
        b"anonymous-auth: 1",
        b"1: 2",
        b"? [a]\n: b",
        b"listen: &a [*a]",
        b"listen: !!binary aGk=",
    ],
    ids=lambda content: ascii(content)[:40],
)
def test_invalid_configuration_files_are_refused(content, monkeypatch, tmp_path):
    """Values of other types, control characters, and files that are no mapping."""
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    _assert_refused(["serve", "--config", str(path)], monkeypatch)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- a list", b"{}", b"\0"], ids=ascii)
@pytest.mark.parametrize("command", [["controllers"], ["wait", "--timeout", "0s"], ["token", "list"]], ids=" ".join)
def test_invalid_kubeconfigs_are_refused(command, content, monkeypatch, tmp_path):
    """By every command that reads one."""
    path = tmp_path / "kubeconfig"
    path.write_bytes(content)
    path.chmod(0o600)
    name, *rest = command
    _assert_refused([name, "--kubeconfig", str(path), *rest], monkeypatch)
