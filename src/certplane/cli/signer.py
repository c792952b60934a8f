"""`certplane signer init`: a starter signer for the serving certificates of a service, with a CA of its own.

The definition is added to a signers file, whose other content stays as it is. The CA has name constraints: those who
trust it trust it only for the names that the signer permits. Nothing existing is changed: the same command again does
nothing, and one that asks for other names or settings is an error.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Final

import click

from certplane import files
from certplane.cli import connection, csr, durations, newfiles, newrequests
from certplane.clock import SystemClock
from certplane.config import options as settings
from certplane.controllers.signing import signersfile
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.wire import codec
from certplane.x509 import keys
from certplane.x509.issuance import selfsigned
from certplane.x509.tbs import template
from certplane.x509.trust import certificates, keypairs

_CA_LIFETIME: Final = datetime.timedelta(days=3650)
_MAX_SIZE: Final = 1 << 20
#: Bytes of a common name: ub-common-name in RFC 5280 appendix A.1.
_MAX_COMMON_NAME: Final = 64
_HEAD: Final = f"apiVersion: {signersfile.API_VERSION}\nkind: {signersfile.KIND}\nsigners:\n"
_FORMAT_HINT: Final = "docs/signers.md describes the format"
_GROUP: Final = "certificates.k8s.io"


@click.group()
def signer() -> None:
    """Define signers of your own."""


@signer.command(epilog="certplane signer init example.com/web --dns '*.web.example.com' | kubectl apply -f -")
@click.argument("name", metavar="DOMAIN/NAME")
@click.option(
    "--dns", multiple=True, metavar="PATTERN",
    help="Permitted DNS name; *. at the beginning stands for one label, **. for one or more. Repeatable.",
)  # fmt: skip
@click.option("--ip", multiple=True, metavar="NETWORK", help="Permitted addresses, such as 10.0.0.0/8. Repeatable.")
@click.option("--description", default="", metavar="TEXT", help="Purpose of the signer, in a sentence.")
@click.option(
    "--duration", default="24h", show_default=True, metavar="DURATION",
    help="Lifetime of certificates whose request names none.",
)  # fmt: skip
@click.option("--max-duration", default="720h", show_default=True, metavar="DURATION", help="Maximum lifetime.")
@click.option("--file", "path", default="signers.yaml", show_default=True, metavar="FILE", help="The signers file.")
@click.option("--ca-cert", default="", metavar="FILE", help="Use this CA certificate instead of a new one.")
@click.option("--ca-key", default="", metavar="FILE", help="The key of --ca-cert.")
@click.option(
    "--key-algorithm", default="ECDSA-P256", show_default=True, metavar="NAME",
    help=f"Algorithm of the key of the new CA: {', '.join(keys.KINDS)}.",
)  # fmt: skip
def init(name: str, **values: object) -> None:
    """Define a signer for the serving certificates of a service.

    Adds the signer to a signers file, creates a CA for it, and prints the roles to apply with kubectl, on standard
    output, and the next commands, on standard error.
    """
    _Starter(name, _Values(**values)).run()  # type: ignore[arg-type]  # click checks the types


@dataclasses.dataclass(frozen=True, slots=True)
class _Values:
    """The options of `init`."""

    dns: Sequence[str]
    ip: Sequence[str]
    description: str
    duration: str
    max_duration: str
    path: str
    ca_cert: str
    ca_key: str
    key_algorithm: str


class _Starter:
    """One run of `init`."""

    def __init__(self, name: str, values: _Values) -> None:
        newrequests.check_signer(name)
        if not values.dns and not values.ip:
            raise SetupError(
                "a signer needs the names that it permits",
                (f"set --dns or --ip: certplane signer init {name} --dns '*.example.com'",),
            )
        if bool(values.ca_cert) != bool(values.ca_key):
            raise SetupError("--ca-cert and --ca-key belong together", ("set both, or neither to create a CA",))
        self._name = name
        self._label = name.partition("/")[2]
        self._values = values
        self._path = pathlib.Path(values.path)
        self._directory = self._path.parent
        self._certificate = pathlib.Path(values.ca_cert or self._directory / f"{self._label}-ca.crt")
        self._key = pathlib.Path(values.ca_key or self._directory / f"{self._label}-ca.key")

    def run(self) -> None:
        files.make_directory(self._directory, "the directory of the signers file")
        files.check_directory(self._directory, "the directory of the signers file")
        files.check_data_file(self._path, "the signers file", files.READ_ONLY)
        text = self._read()
        definition = self._definition()
        wanted = _parse(_HEAD + _item(definition), f"the definition of {self._name}").signers[0]
        for domain in filter(None, self._domains()):
            newrequests.check_dns_name(domain)
        existing = _parse(text, f"the signers file {self._path}").signers if text else []
        former = next((signer for signer in existing if signer.name == self._name), None)
        if former is not None:
            self._check_same(former, wanted)
        else:
            self._check_ca_is_free(existing)
        self._ensure_ca(must_exist=former is not None)
        if former is None:
            files.write(self._path, add_signer(text, definition).encode("utf-8"), 0o644)
            connection.report(f"{self._path}: signer {self._name} added")
        else:
            connection.report(f"{self._path}: signer {self._name} is there already")
        click.echo(roles(self._name), nl=False)
        self._print_next_commands()

    def _read(self) -> str:
        with files.as_setup_error(f"the signers file {self._path} cannot be read", "set --file to another file"):
            content = files.read_regular(self._path, _MAX_SIZE) if self._path.exists() else b""
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SetupError(f"the signers file {self._path} is not UTF-8", ("set --file to another file",)) from error

    def _definition(self) -> dict[str, Any]:
        """The definition, as it is written."""
        values = self._values
        dns = list(dict.fromkeys(values.dns))
        networks = [str(_network(text)) for text in dict.fromkeys(values.ip)]
        kinds = [kind for kind, names in (("dns", dns), ("ip", networks)) if names]
        for text in (values.duration, values.max_duration):
            durations.parse(text)
        return {
            "name": self._name,
            "description": values.description or f"Serving certificates of {self._label}.",
            "authority": {"certFile": self._relative(self._certificate), "keyFile": self._relative(self._key)},
            "usages": {
                "allowed": [newrequests.SERVER_AUTH, "digital signature", "key encipherment"],
                "required": [newrequests.SERVER_AUTH],
            },
            "subject": {"commonName": ["", *dns], "organizations": []},
            "names": {"dns": dns, "ip": networks, "email": [], "uri": [], "required": kinds},
            "lifetime": {"default": values.duration, "max": values.max_duration},
        }

    def _relative(self, path: pathlib.Path) -> str:
        """A path as the signers file names it: relative to that file, unless it is absolute."""
        return str(path) if path.is_absolute() else os.path.relpath(path, self._directory)

    def _domains(self) -> Sequence[str]:
        """The domains that the permitted DNS names are in."""
        return list(dict.fromkeys(pattern.lstrip("*").removeprefix(".") for pattern in self._values.dns))

    def _check_same(self, former: signersfile.SignerDefinition, wanted: signersfile.SignerDefinition) -> None:
        differences = [
            part
            for part in ("names", "lifetime", "authority", "usages", "subject", "keys", "approval")
            if getattr(former, part) != getattr(wanted, part)
        ]
        if self._values.description and former.description != wanted.description:
            differences.append("description")
        if differences:
            names = formatting.quote_all([*(former.names.dns or ()), *(former.names.ip or ())])
            raise SetupError(
                f"the signer {self._name} exists in {self._path} with other settings: {', '.join(differences)} "
                f"(it permits {names})",
                (f"edit {self._path} to change it; its CA may not permit other names", "or choose another name"),
            )

    def _check_ca_is_free(self, existing: Sequence[signersfile.SignerDefinition]) -> None:
        if self._values.ca_cert:
            return
        for definition in existing:
            if definition.authority.cert_file == self._relative(self._certificate):
                raise SetupError(
                    f"{self._certificate} is the CA of another signer, {definition.name}",
                    ("set --ca-cert and --ca-key to use it, too", "or choose another name"),
                )

    # --- the CA ---------------------------------------------------------------------------------------------------

    def _ensure_ca(self, *, must_exist: bool) -> None:
        is_new = not (must_exist or self._values.ca_cert)
        present = [path for path in (self._certificate, self._key) if os.path.lexists(path)]
        if len(present) == 2:
            self._check_ca()
        elif present or not is_new:
            missing = self._key if self._certificate in present else self._certificate
            hint = f"restore {missing}"
            if is_new:
                hint += f", or move {present[0]} away to create a new CA"
            raise SetupError(f"the CA of {self._name} is incomplete: {missing} does not exist", (hint,))
        else:
            self._create_ca()

    def _create_ca(self) -> None:
        key = csr.new_key(self._values.key_algorithm)
        constraints = template.name_constraints(self._domains(), [_network(text) for text in self._values.ip])
        common_name = f"{self._name} CA"[:_MAX_COMMON_NAME]
        certificate = selfsigned.constrained_ca(common_name, key, SystemClock().now(), _CA_LIFETIME, constraints)
        files.write(self._key, keys.to_pem(key), newfiles.KEY_MODE)
        files.write(self._certificate, certificate, newfiles.CERTIFICATE_MODE)
        connection.report(f"{self._certificate}, {self._key}: new CA, {csr.validity(certificate)}")

    def _check_ca(self) -> None:
        files.check_data_file(self._key, "the CA key")
        with files.as_setup_error("the CA cannot be read", "check its files"):
            certificate, key = (files.read_regular(path, _MAX_SIZE) for path in (self._certificate, self._key))
        problem = ""
        try:
            keypairs.check(certificate, key)
        except keypairs.KeyPairError as error:
            problem = str(error)
        parsed = certificates.parse_first(certificate)
        if parsed is not None and not problem:
            if not certificates.is_ca(parsed):
                problem = "it is not a CA certificate"
            elif parsed.not_valid_after_utc <= SystemClock().now():
                problem = f"it has expired: {csr.validity(certificate).partition(' (')[0]}"
        if problem:
            raise SetupError(
                f"{self._certificate} and {self._key} cannot be used as a CA: {problem}",
                ("move both away to create a new CA, or set --ca-cert and --ca-key",),
            )

    def _print_next_commands(self) -> None:
        example = next((pattern.replace("**.", "www.").replace("*.", "www.") for pattern in self._values.dns), "")
        name = f"--dns {example}" if example else f"--ip {next(_network(text) for text in self._values.ip)[0]}"
        role, binding = _role(self._name, "approver"), f"{_role(self._name, 'approvers')}"
        for line in (
            f"start the server with it: certplane serve --signers {self._path}",
            "  (a server that has this file already reads it again within 10 s)",
            "the output is three roles, for kubectl apply -f -; let a group approve with:",
            f"  kubectl create clusterrolebinding {binding} --clusterrole={role} --group=GROUP",
            f"request a certificate: certplane csr create {self._label} --signer {self._name} {name} --wait",
            f"clients of the service trust {self._certificate}",
        ):
            connection.report(line)


def _network(text: str) -> template.IPNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        meant = settings.network_meant(text)
        hint = f"write {meant}" if meant else "write it as 192.0.2.0/24, 192.0.2.1 or 2001:db8::/32"
        quoted = formatting.quote(formatting.shorten(text, settings.MAX_QUOTE))
        raise SetupError(f"not a network: {quoted}", (hint,)) from error


# --- the signers file ---------------------------------------------------------------------------------------------


def _parse(text: str, what: str) -> signersfile.Document:
    try:
        return signersfile.parse(text.encode("utf-8"))
    except signersfile.SignersFileError as error:
        problem = formatting.shorten(str(error), 500)
        raise SetupError(f"{what} is invalid: {problem}", (_FORMAT_HINT,)) from error


def _item(definition: dict[str, Any], indentation: str = "") -> str:
    """A definition as an item of the list of signers."""
    lines = goyaml.dump([definition]).splitlines()
    ordered = goyaml.dump({"name": definition["name"]}).strip()
    # The name first, which a reader looks for.
    body = [line.removeprefix("- ").removeprefix("  ") for line in lines]
    body = [ordered, *(line for line in body if line != ordered)]
    return "".join(f"{indentation}{'- ' if index == 0 else '  '}{line}\n" for index, line in enumerate(body))


def add_signer(text: str, definition: dict[str, Any]) -> str:
    """The text of a signers file with another definition, after the others; comments and layout stay. Raises
    SetupError if the text is written in a way that cannot be extended.
    """
    if not text:
        return _HEAD + _item(definition)
    expected = codec.to_builtins(signersfile.parse(text.encode("utf-8")))
    added = signersfile.parse((_HEAD + _item(definition)).encode("utf-8")).signers[0]
    expected["signers"] = [*expected.get("signers", []), codec.to_builtins(added)]
    base = text if text.endswith("\n") else f"{text}\n"
    indentation = re.search(r"^signers:[^\S\n]*(?:#.*)?\n(?:[^\S\n]*(?:#.*)?\n)*([^\S\n]*)- ", base, re.MULTILINE)
    attempts = [
        base + _item(definition, indentation[1] if indentation else ""),
        re.sub(r"^signers:[^\S\n]*(?:\[\]|null|~)[^\S\n]*$", "signers:", base, count=1, flags=re.MULTILINE)
        + _item(definition),
    ]
    for attempt in attempts:
        try:
            if codec.to_builtins(signersfile.parse(attempt.encode("utf-8"))) == expected:
                return attempt
        except signersfile.SignersFileError:
            continue
    raise SetupError(
        "the signers file cannot be extended: signers is not a list in block style at its end",
        (f"add this to its list of signers, and run the command again:\n{_item(definition)}",),
    )


# --- roles --------------------------------------------------------------------------------------------------------


def _role(name: str, purpose: str) -> str:
    return f"{name.replace('/', ':')}:{purpose}"


def roles(name: str) -> str:
    """ClusterRoles for a signer, as YAML: to request, to approve, and to sign with `certplane controllers`."""
    read = _rule("certificatesigningrequests", "get", "list", "watch")
    documents = (
        (
            "Request certificates, and read all requests. Requests name their signer.",
            _role(name, "requester"),
            [_rule("certificatesigningrequests", "create", "get", "list", "watch")],
        ),
        (
            f"Approve or deny requests for {name}.",
            _role(name, "approver"),
            [
                read,
                _rule("certificatesigningrequests/approval", "update"),
                {**_rule("signers", "approve"), "resourceNames": [name]},
            ],
        ),
        (
            "Sign with certplane controllers in another cluster; certplane serve needs no role.",
            _role(name, "signer"),
            [
                read,
                _rule("certificatesigningrequests/status", "update"),
                {**_rule("signers", "sign"), "resourceNames": [name]},
            ],
        ),
    )
    return "---\n".join(f"# {comment}\n{_cluster_role(role, rules)}" for comment, role, rules in documents)


def _rule(resource: str, *verbs: str) -> dict[str, object]:
    return {"apiGroups": [_GROUP], "resources": [resource], "verbs": list(verbs)}


def _cluster_role(name: str, rules: Sequence[dict[str, object]]) -> str:
    return goyaml.dump(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": list(rules),
        }
    )
