"""PodCertificateRequest: what kubelets may ask, and what signers may answer."""

from __future__ import annotations

import base64
import copy
import datetime
import functools
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certplane import testing, timestamps
from certplane.golang import pem
from certplane.meta import context, objects
from certplane.resources import podcertificaterequests as pcrs
from certplane.wire import codec, protobuf

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
REASON = (
    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric "
    "characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or "
    "'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is "
    "'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
)


@functools.cache
def generate(curve, number):
    return ec.generate_private_key(curve())


def key(number=0, curve=ec.SECP256R1):
    """The same key for the same arguments."""
    return generate(curve, number)


def spki(private_key):
    return private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@functools.cache
def stub(curve=ec.SECP256R1):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key(curve=curve), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def proof(text="pod-uid"):
    return key().sign(text.encode(), ec.ECDSA(hashes.SHA256()))


def request(**spec):
    """A good request, as defaulted, changed in some fields of its spec."""
    defaults = {
        "signer_name": "example.com/foo",
        "pod_name": "pod",
        "pod_uid": "pod-uid",
        "service_account_name": "account",
        "service_account_uid": "account-uid",
        "node_name": "node",
        "node_uid": "node-uid",
        "max_expiration_seconds": 86400,
        "stub_pkcs10_request": stub(),
    }
    return pcrs.PodCertificateRequest(
        metadata=objects.ObjectMeta(name="r", namespace="ns"),
        spec=pcrs.PodCertificateRequestSpec(**{**defaults, **spec}),
    )


def pkix(**spec):
    """The same, with a key and a proof of possession."""
    fields = {"stub_pkcs10_request": None, "pkix_public_key": spki(key()), "proof_of_possession": proof()}
    return request(**{**fields, **spec})


def invalid(path, value, why):
    """As it is printed; `value` is JSON."""
    return f"{path}: Invalid value: {value}: {why}"


def texts(problems):
    return [str(problem) for problem in problems]


# --- what may be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        request,
        pkix,
        lambda: request(signer_name="kubernetes.io/legacy-unknown"),
        lambda: request(unverified_user_annotations={"Acme.io/Foo": "x"}),
        lambda: request(max_expiration_seconds=7862400),
        lambda: request(max_expiration_seconds=3600),
        lambda: request(pod_uid="u" * 128),
    ],
)
def test_good_requests_pass(build):
    """Of both forms, and at the limits."""
    assert texts(pcrs.validate(build())) == []


ANNOTATIONS = "spec.unverifiedUserAnnotations"
NO_SIGNER = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
STUB = "spec.stubPKCS10Request"
TOO_MANY_DAYS = "must be in the range [3600, 7862400]"
MORE_THAN_A_DAY = "must be in the range [3600, 86400]"
ONE_FORM = "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"
NO_PROOF = "spec.proofOfPossession: Invalid value: could not verify proof-of-possession signature"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: request(signer_name=""), ["spec.signerName: Required value"]),
        (
            lambda: request(signer_name="a/b/c"),
            [invalid("spec.signerName", '"a/b/c"', NO_SIGNER)],
        ),
        (
            lambda: request(unverified_user_annotations={"Foo": ""}),
            [invalid(ANNOTATIONS, '"foo"', 'must be a domain-prefixed key (such as "acme.io/foo")')],
        ),
        (
            lambda: request(unverified_user_annotations={"a.io/-": ""}),
            [f'spec.unverifiedUserAnnotations: Invalid value: "a.io/-": {NAME_PART}'],
        ),
        (
            lambda: request(unverified_user_annotations={"": ""}),
            ["spec.unverifiedUserAnnotations: Required value"],
        ),
        (
            lambda: request(unverified_user_annotations={"a.io/b": "x" * 262139}),
            ["spec.unverifiedUserAnnotations: Too long: may not be more than 262144 bytes"],
        ),
        (lambda: request(pod_name="A"), [f'spec.podName: Invalid value: "A": {SUBDOMAIN}']),
        (lambda: request(service_account_name=""), [f'spec.serviceAccountName: Invalid value: "": {SUBDOMAIN}']),
        (lambda: request(node_name="<"), [f'spec.nodeName: Invalid value: "\\u003c": {SUBDOMAIN}']),
        (
            lambda: pkix(pod_uid="", proof_of_possession=proof("")),
            ['spec.podUID: Invalid value: "": must not be empty'],
        ),
        (
            lambda: request(service_account_uid="u" * 129),
            ["spec.serviceAccountUID: Too long: may not be more than 128 bytes"],
        ),
        (lambda: request(node_uid=""), ['spec.nodeUID: Invalid value: "": must not be empty']),
        (
            lambda: request(max_expiration_seconds=None, stub_pkcs10_request=None),
            ["spec.maxExpirationSeconds: Required value: must be set"],
        ),
        (
            lambda: request(max_expiration_seconds=3599),
            [f"spec.maxExpirationSeconds: Invalid value: 3599: {TOO_MANY_DAYS}"],
        ),
        (
            lambda: request(max_expiration_seconds=7862401),
            [f"spec.maxExpirationSeconds: Invalid value: 7862401: {TOO_MANY_DAYS}"],
        ),
        (
            lambda: request(signer_name="kubernetes.io/x", max_expiration_seconds=86401),
            [f"spec.maxExpirationSeconds: Invalid value: 86401: {MORE_THAN_A_DAY}"],
        ),
        (
            lambda: request(signer_name="a.kubernetes.io/x", max_expiration_seconds=86401),
            [f"spec.maxExpirationSeconds: Invalid value: 86401: {MORE_THAN_A_DAY}"],
        ),
        (lambda: request(stub_pkcs10_request=None), [ONE_FORM]),
        (lambda: pkix(proof_of_possession=None), [ONE_FORM]),
        (lambda: pkix(stub_pkcs10_request=stub()), [ONE_FORM]),
        (
            lambda: request(stub_pkcs10_request=b"x" * 10241),
            ["spec.stubPKCS10Request: Too long: may not be more than 10240 bytes"],
        ),
        (
            lambda: request(stub_pkcs10_request=b"x"),
            ["spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"],
        ),
        (
            lambda: request(stub_pkcs10_request=stub(ec.SECP224R1)),
            [invalid(STUB, '"curve P-224"', "elliptic public keys must use curve P256, P384, or P521")],
        ),
        (
            lambda: pkix(pkix_public_key=b"x" * 10241),
            ["spec.pkixPublicKey: Too long: may not be more than 10240 bytes"],
        ),
        (
            lambda: pkix(proof_of_possession=b"x" * 10241),
            ["spec.proofOfPossession: Too long: may not be more than 10240 bytes"],
        ),
        (
            lambda: pkix(pkix_public_key=b"x"),
            ['spec.pkixPublicKey: Invalid value: "eA==": must be a valid PKIX-serialized public key'],
        ),
        (lambda: pkix(proof_of_possession=proof("another")), [NO_PROOF]),
        (
            lambda: request(signer_name="", pod_uid="", max_expiration_seconds=1, stub_pkcs10_request=None),
            [
                "spec.signerName: Required value",
                'spec.podUID: Invalid value: "": must not be empty',
                f"spec.maxExpirationSeconds: Invalid value: 1: {TOO_MANY_DAYS}",
                ONE_FORM,
            ],
        ),
    ],
)
def test_bad_requests_are_refused(make, expected):
    """Each rule in its words, in the order of the fields; without a lifetime, or without a key, no rule follows."""
    assert texts(pcrs.validate(make())) == expected


def test_a_request_never_changes():
    """The spec is printed as Go prints it."""
    assert pcrs.validate_update(request(), request()) == []
    # Absent and empty are the same.
    assert pcrs.validate_update(request(pkix_public_key=b""), request()) == []
    new = request(pod_name="other", unverified_user_annotations={"b.io/b": "2", "a.io/a": "1"})
    printed = (
        '{"SignerName":"example.com/foo","PodName":"other","PodUID":"pod-uid",'
        '"ServiceAccountName":"account","ServiceAccountUID":"account-uid","NodeName":"node","NodeUID":"node-uid",'
        '"MaxExpirationSeconds":86400,"PKIXPublicKey":null,"ProofOfPossession":null,'
        f'"StubPKCS10Request":"{base64.b64encode(stub()).decode()}",'
        '"UnverifiedUserAnnotations":{"a.io/a":"1","b.io/b":"2"}}'
    )
    assert texts(pcrs.validate_update(new, request())) == [invalid("spec", printed, "field is immutable")]


# --- what may be answered -----------------------------------------------------------------------------------------


def condition(type_="Issued", **changes):
    values = {"status": "True", "reason": "Because", "last_transition_time": timestamps.rfc3339(NOW)}
    return objects.Condition(type=type_, **{**values, **changes})


def certificate(begins=NOW, ends=NOW + 24 * HOUR, names=(), subject_key=None):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pod")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key((subject_key or key()).public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key(1), hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def answered(*conditions, base=None, **status):
    new = copy.copy(base or request())
    new.status = pcrs.PodCertificateRequestStatus(conditions=list(conditions), **status)
    return new


def issued(begins=NOW, ends=NOW + 24 * HOUR, base=None, names=(), **status):
    """A good answer, for a certificate of this validity, changed in some fields of its status."""
    values = {
        "certificate_chain": certificate(begins, ends, names),
        "not_before": timestamps.rfc3339(begins),
        "begin_refresh_at": timestamps.rfc3339(begins + 30 * MINUTE),
        "not_after": timestamps.rfc3339(ends),
    }
    return answered(condition(), base=base, **{**values, **status})


DOTTED = "status.conditions.[0]"
PLAIN = "status.conditions[0]"
AT_MOST_ONE = (
    'status.conditions.[1].type: Invalid value: "Denied": There may be at most one condition with type "Issued", '
    '"Denied", or "Failed"'
)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (
            [condition("Ready")],
            [f'{DOTTED}.type: Unsupported value: "Ready": supported values: "Issued", "Denied", "Failed"'],
        ),
        (
            [condition("Issued"), condition("Denied")],
            [AT_MOST_ONE],
        ),
        (
            [condition("Failed", status="False")],
            [f'{DOTTED}.status: Unsupported value: "False": supported values: "True"'],
        ),
        (
            [condition("Denied", status="<")],
            [
                f'{DOTTED}.status: Unsupported value: "\\u003c": supported values: "True"',
                f'{PLAIN}.status: Unsupported value: "\\u003c": supported values: "False", "True", "Unknown"',
            ],
        ),
        (
            [condition("Denied"), condition("Denied")],
            [
                AT_MOST_ONE,
                'status.conditions[1].type: Duplicate value: "Denied"',
            ],
        ),
        (
            [condition("-x")],
            [
                f'{DOTTED}.type: Unsupported value: "-x": supported values: "Issued", "Denied", "Failed"',
                f'{PLAIN}.type: Invalid value: "-x": {NAME_PART}',
            ],
        ),
        (
            [condition("Denied", observed_generation=-1)],
            [f"{PLAIN}.observedGeneration: Invalid value: -1: must be greater than or equal to zero"],
        ),
        (
            [condition("Denied", last_transition_time=None)],
            [f"{PLAIN}.lastTransitionTime: Required value"],
        ),
        ([condition("Denied", reason="")], [f"{PLAIN}.reason: Required value"]),
        ([condition("Denied", reason="no!")], [f'{PLAIN}.reason: Invalid value: "no!": {REASON}']),
        ([condition("Denied", reason="r" * 1025)], [f"{PLAIN}.reason: Too long: may not be more than 1024 bytes"]),
        ([condition("Denied", message="m" * 32769)], [f"{PLAIN}.message: Too long: may not be more than 32768 bytes"]),
    ],
)
def test_conditions_are_well_formed(conditions, expected):
    """One of three types, once, and true; then the rules that hold of all conditions."""
    assert texts(pcrs.status_problems(answered(*conditions), request(), NOW)) == expected


FINAL = ["status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"]
ONLY_CONDITIONS = [
    "status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest"
]
IDLE = ['status: Invalid value: status is immutable unless transitioning to "Issued", "Denied", or "Failed"']


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (request, request, []),
        (request, lambda: answered(condition("Denied")), []),
        (request, lambda: answered(condition("Failed")), []),
        (request, issued, []),
        (request, lambda: answered(certificate_chain="x"), IDLE),
        (request, lambda: answered(not_before=timestamps.rfc3339(NOW)), IDLE),
        (request, lambda: answered(condition("Denied"), certificate_chain="x"), ONLY_CONDITIONS),
        (request, lambda: answered(condition("Failed"), not_after=timestamps.rfc3339(NOW)), ONLY_CONDITIONS),
        (lambda: answered(condition("Denied")), lambda: answered(condition("Denied")), []),
        (lambda: answered(condition("Denied")), lambda: answered(condition("Denied", message="x")), FINAL),
        (lambda: answered(condition("Failed")), issued, FINAL),
        (lambda: answered(condition("Denied")), request, FINAL),
    ],
)
def test_a_request_is_answered_once(old, new, expected):
    """With a certificate, or a condition alone; before and after, nothing changes."""
    assert texts(pcrs.status_problems(new(), old(), NOW)) == expected


CHAIN = "status.certificateChain"


def chain_problem(chain, why):
    return invalid(CHAIN, json.dumps(chain), why)


OTHERS = certificate(subject_key=key(2))
NO_KEY = pem.encode("KEY", b"x").decode()
NO_CERTIFICATE = pem.encode("CERTIFICATE", b"x").decode()
GOOD = certificate()


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("x" * 102401, "status.certificateChain: Too long: may not be more than 102400 bytes"),
        ("", chain_problem("", "issued certificate chain must contain at least one certificate")),
        (NO_KEY, chain_problem(NO_KEY, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")),
        (NO_CERTIFICATE, chain_problem(NO_CERTIFICATE, "leaf certificate does not parse as valid X.509")),
        (OTHERS, chain_problem(OTHERS, "leaf certificate was not issued to the requested public key")),
        (
            GOOD + NO_KEY,
            chain_problem(GOOD + NO_KEY, "issued certificate chain must consist entirely of CERTFICATE PEM blocks"),
        ),
        (
            GOOD + NO_CERTIFICATE,
            chain_problem(GOOD + NO_CERTIFICATE, "intermediate certificate does not parse as valid X.509"),
        ),
    ],
)
def test_a_chain_is_for_the_key_that_was_asked_for(chain, expected):
    """It consists of certificates, of which the first is for the pod; the whole chain is repeated in errors."""
    assert texts(pcrs.status_problems(issued(certificate_chain=chain), request(), NOW)) == [expected]


@pytest.mark.parametrize("make", [request, pkix])
def test_intermediates_may_follow(make):
    """For both ways to send the key."""
    assert pcrs.status_problems(issued(base=make(), certificate_chain=GOOD + OTHERS), make(), NOW) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([x509.DNSName("a.b"), x509.RFC822Name("a@b")], []),
        ([x509.DNSName("")], [("", "leaf certificate should not contain empty DNSName")]),
        ([x509.DNSName("a..b")], [("a..b", "leaf certificate's DNSName should not contain '..'")]),
        ([x509.DNSName(".a")], [(".a", "leaf certificate's DNSName should not start or end with '.'")]),
        (
            [x509.DNSName("a.."), x509.RFC822Name("nobody")],
            [
                ("a..", "leaf certificate's DNSName should not contain '..'"),
                ("a..", "leaf certificate's DNSName should not start or end with '.'"),
                ("nobody", "leaf certificate should not contain invalid EmailAddress"),
            ],
        ),
    ],
)
def test_names_in_a_leaf_are_names(names, expected):
    """Every name that is none is listed."""
    problems = pcrs.status_problems(issued(names=names), request(), NOW)
    assert texts(problems) == [chain_problem(value, why) for value, why in expected]


CONSISTENT = "Required value: must be present and consistent with the issued certificate"
BETWEEN = "Required value: must be present and in the range [notbefore+10min, notafter-10min]"


def test_times_are_told():
    """All of them."""
    new = issued(not_before=None, begin_refresh_at=None, not_after=None)
    assert texts(pcrs.status_problems(new, request(), NOW)) == [
        f"status.notBefore: {CONSISTENT}",
        f"status.notAfter: {CONSISTENT}",
        f"status.beginRefreshAt: {BETWEEN}",
    ]


BEGIN, REFRESH, END = "status.notBefore", "status.beginRefreshAt", "status.notAfter"
OTHER_BEGIN = "must be set to the NotBefore time encoded in the leaf certificate"
OTHER_END = "must be set to the NotAfter time encoded in the leaf certificate"
SKEWED = "must be set to within 5 minutes of kube-apiserver's current time"
TOO_SHORT = "leaf certificate lifetime must be >= 1 hour"
TOO_LONG = "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"
TOO_EARLY = "must be at least 10 minutes after status.notBefore"
TOO_LATE = "must be at least 10 minutes before status.notAfter"


@pytest.mark.parametrize(
    ("answer", "path", "value", "why"),
    [
        ({"not_before": "2026-01-01T12:00:01Z"}, BEGIN, '"2026-01-01T12:00:01Z"', OTHER_BEGIN),
        ({"begins": NOW - 5 * MINUTE}, BEGIN, '"2026-01-01T11:55:00Z"', SKEWED),
        ({"begins": NOW + 5 * MINUTE}, BEGIN, '"2026-01-01T12:05:00Z"', SKEWED),
        ({"not_after": "2026-01-02T12:00:01Z"}, END, '"2026-01-02T12:00:01Z"', OTHER_END),
        ({"ends": NOW + 59 * MINUTE}, CHAIN, 3540000000000, TOO_SHORT),
        ({"ends": NOW + 25 * HOUR}, CHAIN, 90000000000000, TOO_LONG),
        ({"begin_refresh_at": "2026-01-01T12:09:59Z"}, REFRESH, '"2026-01-01T12:09:59Z"', TOO_EARLY),
        ({"begin_refresh_at": "2026-01-02T11:50:01Z"}, REFRESH, '"2026-01-02T11:50:01Z"', TOO_LATE),
    ],
)
def test_times_are_those_of_the_certificate(answer, path, value, why):
    """It begins about now, lasts an hour at least and no longer than asked for, and is renewed in between."""
    assert texts(pcrs.status_problems(issued(**answer), request(), NOW)) == [invalid(path, value, why)]


@pytest.mark.parametrize(
    "answer",
    [
        {"begins": NOW - 299 * SECOND, "ends": NOW + HOUR},
        {"begins": NOW + 299 * SECOND},
        {"ends": NOW + HOUR},
        {"begin_refresh_at": "2026-01-01T12:10:00Z"},
        {"begin_refresh_at": "2026-01-02T11:50:00Z"},
    ],
)
def test_times_at_the_limits_pass(answer):
    """All limits belong to what is allowed, except for the distance to now."""
    assert pcrs.status_problems(issued(**answer), request(), NOW) == []


# --- the rest -----------------------------------------------------------------------------------------------------


def call():
    fake = testing.FakeClock(NOW)
    info = context.RequestInfo("/", "update", is_resource=True)
    return context.Call(context.User("jane"), info, fake, fake.now())


def test_a_new_request_has_no_answer():
    """Whatever the body says; and it asks for a day if it does not say otherwise."""
    new = answered(condition(), base=request(max_expiration_seconds=None), certificate_chain="x")
    pcrs.RESOURCE.default(new)
    pcrs.RESOURCE.prepare_create(new, call())
    assert (new.spec.max_expiration_seconds, new.status) == (86400, pcrs.PodCertificateRequestStatus())


def test_the_status_door_leaves_the_metadata_alone():
    """Except for managedFields."""
    old = request()
    old.metadata.labels = {"a": "b"}
    new = answered(condition("Denied"))
    written = [objects.ManagedFieldsEntry(manager="m")]
    new.metadata = objects.ObjectMeta(name="r", annotations={"c": "d"}, finalizers=["x.io/y"], managed_fields=written)
    (door,) = pcrs.RESOURCE.subresources
    door.prepare(new, old, call())
    assert (door.name, door.owns) == ("status", ("status",))
    assert new.metadata == objects.ObjectMeta(name="r", labels={"a": "b"}, managed_fields=written)


def test_on_the_wire():
    """Keys are null when they are absent, and fields stand in Go's order; protobuf says the same as JSON."""
    assert list(json.loads(codec.encode(pcrs.PodCertificateRequestSpec())).items()) == [
        ("signerName", ""),
        ("podName", ""),
        ("podUID", ""),
        ("serviceAccountName", ""),
        ("serviceAccountUID", ""),
        ("nodeName", ""),
        ("nodeUID", ""),
        ("pkixPublicKey", None),
        ("proofOfPossession", None),
        ("stubPKCS10Request", None),
    ]
    empty = b'{"type":"","status":"","lastTransitionTime":null,"reason":"","message":""}'
    assert codec.encode(objects.Condition()) == empty
    obj = issued(base=request(unverified_user_annotations={"a.io/b": "c"}))
    obj.kind, obj.api_version = "PodCertificateRequest", "certificates.k8s.io/v1beta1"
    read = codec.decode_tree(json.loads(codec.encode(obj)), pcrs.PodCertificateRequest).object
    assert read == obj
    body = protobuf.encode(obj, obj.api_version, obj.kind)
    decoded = protobuf.decode(body, pcrs.PodCertificateRequest, obj.api_version).object
    assert (decoded.metadata, decoded.status) == (obj.metadata, obj.status)
    assert pcrs.validate_update(decoded, obj) == []


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (request, "Pending"),
        (lambda: answered(condition("Denied")), "Denied"),
        (lambda: answered(condition("Other")), "Pending"),
        (lambda: answered(condition("Issued"), condition("Failed")), "Failed"),
    ],
)
def test_the_state_is_the_last_known_condition(build, expected):
    """In one word."""
    assert pcrs.state_text(build()) == expected


def test_the_declaration():
    """What discovery, tables and selectors say, in both versions."""
    obj = request(unverified_user_annotations={"b.io/b": "2", "a.io/a": "1"})
    for kind, version in ((pcrs.RESOURCE, "v1beta1"), (pcrs.RESOURCE_V1, "v1")):
        assert (kind.version, kind.namespaced, kind.unconditional_update) == (version, True, False)
        assert {column.name: column.cell(obj, NOW) for column in kind.columns} == {
            "Name": "r",
            "PodName": "pod",
            "ServiceAccountName": "account",
            "NodeName": "node",
            "SignerName": "example.com/foo",
            "State": "Pending",
            "UnverifiedUserAnnotations": "a.io/a=1,b.io/b=2",
        }
        assert kind.columns[-1].cell(request(), NOW) == "<none>"
        selected = {name: get(obj) for name, get in kind.selectable.items()}
        assert selected == {"spec.signerName": "example.com/foo", "spec.podName": "pod", "spec.nodeName": "node"}
        assert kind.selects_namespace is False
        assert kind.unknown_selector("spec.x") == "field label not supported: spec.x"
    assert pcrs.RESOURCE.storage_version_hash == "wYA9yXQH8fg="
