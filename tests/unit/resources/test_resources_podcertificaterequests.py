"""PodCertificateRequest: validation of requests and of their status, encoding and declaration."""

from __future__ import annotations

import base64
import copy
import datetime
import functools
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from certplane import testing, timestamps
from certplane.golang import pem
from certplane.meta import context, objects
from certplane.resources import podcertificaterequests as pcrs
from certplane.wire import codec, protobuf
from tests.unit.x509 import material

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
def stub(kind="P-256"):
    return material.stub_request(material.key(kind))


def proof(text="pod-uid"):
    return material.key().sign(text.encode(), ec.ECDSA(hashes.SHA256()))


def request(**spec):
    """A valid request with its defaults, and with some fields of its spec changed."""
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
    """The same with a public key and a proof of possession."""
    fields = {
        "stub_pkcs10_request": None,
        "pkix_public_key": material.public_der(material.key()),
        "proof_of_possession": proof(),
    }
    return request(**{**fields, **spec})


def invalid(path, value, detail):
    """The text of a problem. `value` is JSON."""
    return f"{path}: Invalid value: {value}: {detail}"


def texts(problems):
    return [str(problem) for problem in problems]


# --- requests -----------------------------------------------------------------------------------------------------


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
def test_valid_requests_are_accepted(build):
    """In both forms, and at the limits."""
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
            lambda: request(stub_pkcs10_request=stub("P-224")),
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
def test_invalid_requests_are_refused(make, expected):
    """With the texts of Kubernetes, in the order of the fields. After a missing lifetime or key, later rules are not
    checked.
    """
    assert texts(pcrs.validate(make())) == expected


def test_the_spec_is_immutable():
    """The error has the spec as Go prints it."""
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


# --- status -------------------------------------------------------------------------------------------------------


def condition(type_="Issued", **changes):
    values = {"status": "True", "reason": "Because", "last_transition_time": timestamps.rfc3339(NOW)}
    return objects.Condition(type=type_, **{**values, **changes})


def certificate(begins=NOW, ends=NOW + 24 * HOUR, names=(), subject_key=None):
    extensions = [(x509.SubjectAlternativeName(names), False)] if names else []
    subject_key = subject_key or material.key()
    data = material.certificate(subject_key, material.key("P-256", 1), "pod", (begins, ends), extensions)
    return pem.encode("CERTIFICATE", data).decode()


def answered(*conditions, base=None, **status):
    new = copy.copy(base or request())
    new.status = pcrs.PodCertificateRequestStatus(conditions=list(conditions), **status)
    return new


def issued(begins=NOW, ends=NOW + 24 * HOUR, base=None, names=(), **status):
    """A request with a certificate of this validity, and with some fields of its status changed."""
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
def test_invalid_conditions_are_refused(conditions, expected):
    """There is one condition, of a known type and with status True. The rules for all conditions follow."""
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
def test_the_status_is_written_once(old, new, expected):
    """With a certificate, or with a condition only. Before and after that it is immutable."""
    assert texts(pcrs.status_problems(new(), old(), NOW)) == expected


CHAIN = "status.certificateChain"


def chain_problem(chain, detail):
    return invalid(CHAIN, json.dumps(chain), detail)


OTHERS = certificate(subject_key=material.key("P-256", 2))
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
def test_invalid_certificate_chains_are_refused(chain, expected):
    """The first certificate must be for the requested key. The error repeats the whole chain."""
    assert texts(pcrs.status_problems(issued(certificate_chain=chain), request(), NOW)) == [expected]


@pytest.mark.parametrize("make", [request, pkix])
def test_intermediate_certificates_are_accepted(make):
    """For both forms of requests."""
    assert pcrs.status_problems(issued(base=make(), certificate_chain=GOOD + OTHERS), make(), NOW) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([x509.DNSName("a.b"), x509.RFC822Name("a@b")], []),
        ([x509.DNSName("")], [("", "leaf certificate should not contain empty DNSName")]),
        ([x509.DNSName("a..b")], [("a..b", "leaf certificate's DNSName should not contain '..'")]),
        ([x509.DNSName(".a")], [(".a", "leaf certificate's DNSName should not start or end with '.'")]),
        (
            [x509.DNSName("a.."), x509.RFC822Name("jane")],
            [
                ("a..", "leaf certificate's DNSName should not contain '..'"),
                ("a..", "leaf certificate's DNSName should not start or end with '.'"),
                ("jane", "leaf certificate should not contain invalid EmailAddress"),
            ],
        ),
    ],
)
def test_invalid_names_in_the_leaf_are_refused(names, expected):
    """All of them are reported."""
    problems = pcrs.status_problems(issued(names=names), request(), NOW)
    assert texts(problems) == [chain_problem(value, detail) for value, detail in expected]


CONSISTENT = "Required value: must be present and consistent with the issued certificate"
BETWEEN = "Required value: must be present and in the range [notbefore+10min, notafter-10min]"


def test_the_times_are_required():
    """All missing ones are reported."""
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
    ("answer", "path", "value", "detail"),
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
def test_invalid_times_are_refused(answer, path, value, detail):
    """They are those of the certificate, which begins about now and has the requested lifetime or less, but at least an
    hour. It is refreshed in between.
    """
    assert texts(pcrs.status_problems(issued(**answer), request(), NOW)) == [invalid(path, value, detail)]


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
def test_times_at_the_limits_are_accepted(answer):
    """The limits are inclusive, except for the distance to the current time."""
    assert pcrs.status_problems(issued(**answer), request(), NOW) == []


# --- lifecycle, encoding and declaration --------------------------------------------------------------------------


def call():
    fake = testing.FakeClock(NOW)
    info = context.RequestInfo("/", "update", is_resource=True)
    return context.VerbContext(context.User("jane"), info, fake.now())


def test_the_status_is_cleared_on_create():
    """The default lifetime is one day."""
    new = answered(condition(), base=request(max_expiration_seconds=None), certificate_chain="x")
    pcrs.RESOURCE.default(new)
    pcrs.RESOURCE.prepare_create(new, call())
    assert (new.spec.max_expiration_seconds, new.status) == (86400, pcrs.PodCertificateRequestStatus())


def test_an_update_of_the_status_keeps_the_metadata():
    """Except for managedFields."""
    old = request()
    old.metadata.labels = {"a": "b"}
    new = answered(condition("Denied"))
    managed_fields = [objects.ManagedFieldsEntry(manager="m")]
    new.metadata = objects.ObjectMeta(
        name="r", annotations={"c": "d"}, finalizers=["x.io/y"], managed_fields=managed_fields
    )
    (subresource,) = pcrs.RESOURCE.subresources
    subresource.prepare(new, old, call())
    assert (subresource.name, subresource.owns) == ("status", ("status",))
    assert new.metadata == objects.ObjectMeta(name="r", labels={"a": "b"}, managed_fields=managed_fields)


def test_encoding():
    """Missing keys are null, and fields are in the order of Go. An object is the same after a round trip through JSON
    and protobuf.
    """
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
def test_the_state_column(build, expected):
    """It is the type of the last condition with a known type."""
    assert pcrs.state_text(build()) == expected


def test_declaration():
    """Tables and selectors are the same in both versions."""
    obj = request(unverified_user_annotations={"b.io/b": "2", "a.io/a": "1"})
    for kind, version in ((pcrs.RESOURCE, "v1beta1"), (pcrs.RESOURCE_V1, "v1")):
        assert (kind.version, kind.namespaced, kind.allow_unconditional_update) == (version, True, False)
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
