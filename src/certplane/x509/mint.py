"""Certificates that the control plane makes for itself: its CA, its serving certificate, its administrators'.

The contents are kubeadm's (kubernetes, `cmd/kubeadm/app/util/pkiutil`): key usages also for EC keys, back-dated by five
minutes, a SubjectKeyIdentifier in CAs only and an AuthorityKeyIdentifier in leaves only.
"""

from __future__ import annotations

import dataclasses
import datetime
import secrets
from typing import Final

from certplane.x509 import authority, csr, keys, pem, template

BACKDATE: Final = datetime.timedelta(minutes=5)
_LEAF_USAGES: Final = ("digital_signature", "key_encipherment")
_SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
_CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate to be made. `names` are a server's; a certificate without them is a client's."""

    common_name: str
    organizations: tuple[str, ...] = ()
    names: template.AltNames = dataclasses.field(default_factory=template.AltNames)


def self_signed_ca(
    common_name: str, key: keys.PrivateKey, now: datetime.datetime, lifetime: datetime.timedelta
) -> bytes:
    """A root certificate, in PEM."""
    name = template.name(csr.Subject(common_name=common_name))
    spki = keys.spki(key)
    algorithm = authority.signature_algorithm(key)
    made = template.Template(
        serial=_serial(),
        issuer=name,
        not_before=now.replace(microsecond=0) - BACKDATE,
        not_after=now.replace(microsecond=0) + lifetime,
        subject=name,
        spki=spki,
        extensions=[
            template.key_usage((*_LEAF_USAGES, "key_cert_sign")),
            template.basic_constraints(ca=True),
            template.subject_key_id(template.key_id(spki)),
            template.subject_alt_name(template.AltNames(dns=(common_name,)), critical=False),
        ],
        algorithm=algorithm,
    )
    to_be_signed = made.to_be_signed()
    return _finished(to_be_signed, algorithm, authority.signature(key, to_be_signed))


def leaf(
    what: Leaf, key: keys.PrivateKey, by: authority.Authority, now: datetime.datetime, lifetime: datetime.timedelta
) -> bytes:
    """A certificate for a key, in PEM."""
    purpose = _SERVER_AUTH if what.names else _CLIENT_AUTH
    extensions = [
        template.key_usage(_LEAF_USAGES),
        template.extended_key_usage((purpose,)),
        template.basic_constraints(ca=False),
    ]
    if by.key_id is not None:
        extensions.append(template.authority_key_id(by.key_id))
    if what.names:
        extensions.append(template.subject_alt_name(what.names, critical=False))
    made = template.Template(
        serial=_serial(),
        issuer=by.subject,
        not_before=now.replace(microsecond=0) - BACKDATE,
        not_after=min(now.replace(microsecond=0) + lifetime, by.not_after),
        subject=template.name(csr.Subject(organization=what.organizations, common_name=what.common_name)),
        spki=keys.spki(key),
        extensions=extensions,
        algorithm=by.algorithm,
    )
    to_be_signed = made.to_be_signed()
    return _finished(to_be_signed, by.algorithm, by.sign(to_be_signed))


def _finished(to_be_signed: bytes, algorithm: bytes, signature: bytes) -> bytes:
    return pem.encode("CERTIFICATE", template.assemble(to_be_signed, algorithm, signature))


def _serial() -> int:
    return secrets.randbelow((1 << 63) - 2) + 1
