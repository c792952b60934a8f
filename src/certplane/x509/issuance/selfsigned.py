"""Certificates of the control plane itself: its CA, its serving certificate, its administrators' client certificates;
and their renewal.

The contents are kubeadm's (kubernetes, `cmd/kubeadm/app/util/pkiutil`): key usages also for EC keys, back-dated by five
minutes, a SubjectKeyIdentifier in CAs only and an AuthorityKeyIdentifier in leaves only.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import secrets
from collections.abc import Sequence
from typing import Final

from certplane.golang import pem
from certplane.x509 import certificatenames, keys, oids
from certplane.x509.issuance.authority import Authority
from certplane.x509.tbs import signing, template
from certplane.x509.trust import certificates, pathcertificate

BACKDATE: Final = datetime.timedelta(minutes=5)
#: The lifetimes of kubeadm.
CA_LIFETIME: Final = datetime.timedelta(days=3650)
LEAF_LIFETIME: Final = datetime.timedelta(days=365)
_LEAF_USAGES: Final = ("digital_signature", "key_encipherment")
#: The extended key usages that Go knows; a renewal drops others.
_KNOWN_USAGES: Final = frozenset(
    {
        oids.ANY_EXTENDED_KEY_USAGE,
        oids.SERVER_AUTH,
        oids.CLIENT_AUTH,
        oids.CODE_SIGNING,
        oids.EMAIL_PROTECTION,
        oids.IPSEC_END_SYSTEM,
        oids.IPSEC_TUNNEL,
        oids.IPSEC_USER,
        oids.TIME_STAMPING,
        oids.OCSP_SIGNING,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """The contents of a certificate. `usages` are OIDs of extended key usages. Without them it is a serving
    certificate if it has `names`, else a client certificate.
    """

    common_name: str
    organizations: tuple[str, ...] = ()
    names: template.AltNames = dataclasses.field(default_factory=template.AltNames)
    usages: tuple[str, ...] = ()


def renewable(certificate: bytes) -> Leaf:
    """What a renewed certificate keeps of an existing one, in DER: common name, organizations, DNS names, IP addresses
    and extended key usages. As in kubeadm, everything else is dropped. Raises ValueError with Go's text.
    """
    parsed = pathcertificate.parse(certificate)
    subject = certificatenames.parse_name(parsed.subject)
    names = certificatenames.AlternativeNames()
    if parsed.alternative_names is not None:
        names = certificatenames.parse_alternative_names(parsed.alternative_names)
    leaf = Leaf(
        common_name=subject.common_name,
        organizations=subject.organization,
        names=template.AltNames(dns=sorted(set(names.dns)), ip=tuple(dict.fromkeys(names.ip))),
        usages=tuple(usage for usage in certificates.extended_key_usages(certificate) if usage in _KNOWN_USAGES),
    )
    if not leaf.common_name:
        raise ValueError("must specify a CommonName")
    if not leaf.usages:
        raise ValueError("must specify at least one ExtKeyUsage")
    return leaf


def alt_names(names: Sequence[str]) -> template.AltNames:
    """The SANs of some DNS names and IP addresses, without duplicates; DNS names sorted, addresses in the
    given order.
    """
    dns: set[str] = set()
    addresses: dict[ipaddress.IPv4Address | ipaddress.IPv6Address, None] = {}
    for name in names:
        try:
            addresses[ipaddress.ip_address(name)] = None
        except ValueError:
            dns.add(name.lower())
    return template.AltNames(dns=sorted(dns), ip=tuple(addresses))


def self_signed_ca(
    common_name: str, key: keys.PrivateKey, now: datetime.datetime, lifetime: datetime.timedelta
) -> bytes:
    """Create a root certificate, in PEM."""
    extensions = (
        template.key_usage((*_LEAF_USAGES, "key_cert_sign")),
        template.basic_constraints(ca=True),
        template.subject_key_id(template.key_id(keys.spki(key))),
        template.subject_alt_name(template.AltNames(dns=(common_name,)), critical=False),
    )
    return _root(common_name, key, now, lifetime, extensions)


def constrained_ca(
    common_name: str,
    key: keys.PrivateKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
    constraints: template.Extension,
) -> bytes:
    """Create a root certificate for servers' certificates, in PEM: of no other CA, and with name constraints, so that
    those who trust it trust it for these names only.
    """
    extensions = (
        template.key_usage(("key_cert_sign", "crl_sign")),
        template.basic_constraints(ca=True, path_length=0),
        template.subject_key_id(template.key_id(keys.spki(key))),
        constraints,
    )
    return _root(common_name, key, now, lifetime, extensions)


def _root(
    common_name: str,
    key: keys.PrivateKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
    extensions: Sequence[template.Extension],
) -> bytes:
    name = template.encode_name(certificatenames.Subject(common_name=common_name))
    algorithm = signing.algorithm_identifier(key)
    certificate = template.Template(
        serial=_serial(),
        issuer=name,
        not_before=now.replace(microsecond=0) - BACKDATE,
        not_after=now.replace(microsecond=0) + lifetime,
        subject=name,
        spki=keys.spki(key),
        extensions=extensions,
        algorithm=algorithm,
    )
    to_be_signed = certificate.to_be_signed()
    return _assemble(to_be_signed, algorithm, signing.sign(key, to_be_signed))


def issue_leaf(
    leaf: Leaf, key: keys.PrivateKey, issuer: Authority, now: datetime.datetime, lifetime: datetime.timedelta
) -> bytes:
    """Issue a certificate for a key, in PEM. It does not outlive its issuer."""
    usages = leaf.usages or ((oids.SERVER_AUTH,) if leaf.names else (oids.CLIENT_AUTH,))
    extensions = [
        template.key_usage(_LEAF_USAGES),
        template.extended_key_usage(usages),
        template.basic_constraints(ca=False),
    ]
    if issuer.key_id is not None:
        extensions.append(template.authority_key_id(issuer.key_id))
    if leaf.names:
        extensions.append(template.subject_alt_name(leaf.names, critical=False))
    certificate = template.Template(
        serial=_serial(),
        issuer=issuer.subject,
        not_before=now.replace(microsecond=0) - BACKDATE,
        not_after=min(now.replace(microsecond=0) + lifetime, issuer.not_after),
        subject=template.encode_name(
            certificatenames.Subject(organization=leaf.organizations, common_name=leaf.common_name)
        ),
        spki=keys.spki(key),
        extensions=extensions,
        algorithm=issuer.algorithm,
    )
    to_be_signed = certificate.to_be_signed()
    return _assemble(to_be_signed, issuer.algorithm, issuer.sign(to_be_signed))


def _assemble(to_be_signed: bytes, algorithm: bytes, signature: bytes) -> bytes:
    return pem.encode("CERTIFICATE", template.assemble(to_be_signed, algorithm, signature))


def _serial() -> int:
    # As kubeadm: positive, below 2**63.
    return secrets.randbelow((1 << 63) - 2) + 1
