"""Encoding and decoding of protobuf bodies and watch frames."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec
import pytest

from certplane import errors
from certplane.meta import objects, responses
from certplane.resources import certificatesigningrequests as csrs
from certplane.wire import protobuf
from certplane.wire.pb import certificates_v1_pb2, meta_v1_pb2, runtime_pb2


class LeaseSpec(objects.Type):
    holder_identity: Annotated[str | None, objects.doc("Who.")] = None
    lease_duration_seconds: Annotated[objects.Int32 | None, objects.doc("How long.")] = None
    acquire_time: Annotated[objects.MicroTime | None, objects.doc("Since when.")] = None
    renew_time: Annotated[objects.MicroTime | None, objects.doc("Renewed when.")] = None
    lease_transitions: Annotated[objects.Int32 | None, objects.doc("How often it changed hands.")] = None


class Lease(objects.Object):
    spec: Annotated[LeaseSpec, objects.doc("The lease.")] = objects.always(LeaseSpec)


class ConfigMap(objects.Object):
    immutable: Annotated[bool | None, objects.doc("Frozen.")] = None
    data: Annotated[dict[str, str], objects.doc("Texts.")] = msgspec.field(default_factory=dict)
    binary_data: Annotated[dict[str, bytes], objects.doc("Bytes.")] = msgspec.field(default_factory=dict)


class UserInfo(objects.Type):
    username: Annotated[str, objects.doc("Who.")] = ""
    extra: Annotated[dict[str, list[str]], objects.doc("More.")] = msgspec.field(default_factory=dict)


class Unregistered(objects.Object):
    pass


class Namespace(objects.Object):
    colour: Annotated[str, objects.doc("No such field.")] = ""


LEASES = "coordination.k8s.io/v1"
#: A body that client-go sent: a Lease of leader election.
LEASE_BODY = base64.b64decode(
    "azhzAAofChZjb29yZGluYXRpb24uazhzLmlvL3YxEgVMZWFzZRIvCgkKB2NvbmYtcGISIgoCbWUQDxoLCIDCr/AFEICU7zoiCwiAwq/wBRCAlO86"
    "KAAaACIA"
)
DELETE_OPTIONS_BODY = base64.b64decode("azhzAAoTCgJ2MRINRGVsZXRlT3B0aW9ucxIMIgpCYWNrZ3JvdW5kGgAiAA==")


def lease(**spec: Any) -> Lease:
    return Lease(kind="Lease", api_version=LEASES, metadata=objects.ObjectMeta(name="conf-pb"), spec=LeaseSpec(**spec))


def envelope(raw: bytes, api_version: str = "", kind: str = "") -> bytes:
    unknown = runtime_pb2.Unknown(raw=raw)
    unknown.typeMeta.apiVersion, unknown.typeMeta.kind = api_version, kind
    return protobuf.PREFIX + unknown.SerializeToString()


def test_a_body_of_client_go_is_decoded() -> None:
    """A Lease of leader election."""
    moment = "2020-01-01T00:00:00.123456Z"
    expected = lease(
        holder_identity="me", lease_duration_seconds=15, acquire_time=moment, renew_time=moment, lease_transitions=0
    )
    actual = protobuf.decode(LEASE_BODY, Lease, LEASES).object
    assert expected == actual


def test_delete_options_are_decoded() -> None:
    """They belong to no group."""
    expected = objects.DeleteOptions(kind="DeleteOptions", api_version="v1", propagation_policy="Background")
    assert expected == protobuf.decode(DELETE_OPTIONS_BODY, objects.DeleteOptions, "certificates.k8s.io/v1").object


def test_an_encoded_object_is_decoded_unchanged() -> None:
    """With an empty string and a zero that are set."""
    body = protobuf.encode(lease(holder_identity="", lease_transitions=0), LEASES, "Lease")
    assert lease(holder_identity="", lease_transitions=0) == protobuf.decode(body, Lease, LEASES).object


def test_pointers_are_written_only_if_set() -> None:
    """None is omitted, zero is not; plain fields are always written, as in Go."""
    raw = protobuf.decode(protobuf.encode(lease(lease_duration_seconds=0), LEASES, "Lease"), Lease, LEASES).raw
    assert b"\x12\x02\x10\x00" == raw[-4:]


def test_times_without_a_pointer_in_go_are_always_written() -> None:
    """A time that is null in JSON is an empty message, and so is creationTimestamp. Empty bytes are omitted."""
    request = csrs.CertificateSigningRequest()
    request.status.conditions = [csrs.CertificateSigningRequestCondition(type="Approved")]
    body = protobuf.encode(request, "certificates.k8s.io/v1", "CertificateSigningRequest")
    message = certificates_v1_pb2.CertificateSigningRequest.FromString(_raw(body))
    assert message.status.conditions[0].HasField("lastUpdateTime")
    assert not message.status.HasField("certificate")
    assert (message.metadata.HasField("creationTimestamp"), message.metadata.HasField("deletionTimestamp")) == (
        True,
        False,
    )


def _raw(body: bytes) -> bytes:
    return runtime_pb2.Unknown.FromString(body[4:]).raw


def test_the_envelope_has_kind_and_version() -> None:
    """They are known before the message is decoded, which happens on demand."""
    decoded = protobuf.decode(envelope(b"\xff", "certificates.k8s.io/v9", "Nope"), Lease, LEASES)
    assert ("certificates.k8s.io/v9", "Nope") == (decoded.api_version, decoded.kind)


def test_an_envelope_without_a_type_means_the_expected_type() -> None:
    """That of the request path."""
    decoded = protobuf.decode(envelope(b""), Lease, LEASES)
    assert ("", "", Lease()) == (decoded.api_version, decoded.kind, decoded.object)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the object provided is unrecognized (must be of type Lease): empty data (<empty>)"),
        (
            b"{}",
            (
                "the object provided is unrecognized (must be of type Lease): provided data does not appear to be a "
                "protobuf message, expected prefix [107 56 115 0] ({})"
            ),
        ),
        (b"k8s\x00", "the object provided is unrecognized (must be of type Lease): empty body (6b387300)"),
        (
            b"k8s\x00\xff",
            "the object provided is unrecognized (must be of type Lease): unexpected EOF (6b387300ff)",
        ),
    ],
)
def test_an_invalid_envelope_is_refused(data: bytes, message: str) -> None:
    """With Kubernetes' text."""
    with pytest.raises(errors.BadRequest) as caught:
        protobuf.decode(data, Lease, LEASES)
    assert message == caught.value.message


def _with_fields(raw: bytes) -> bytes:
    entry = meta_v1_pb2.ManagedFieldsEntry(fieldsV1=meta_v1_pb2.FieldsV1(Raw=raw))
    return meta_v1_pb2.PartialObjectMetadata(metadata=meta_v1_pb2.ObjectMeta(managedFields=[entry])).SerializeToString()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x0a\xff", id="cut off"),
        pytest.param(b"\x12\x0f\x1a\x0d\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10\x00", id="a time after year 9999"),
        pytest.param(b"\x0a\x07\x8a\x01\x04\x3a\x02\x0a\x00"[:4], id="cut off inside"),
        pytest.param(_with_fields(b'{"a"'), id="a field set that is not JSON"),
        pytest.param(_with_fields(b'{"f:a":' * 9_000 + b"{}" + b"}" * 9_000), id="a deep field set"),
        pytest.param(_with_fields(b"[" * 100_000), id="a field set that is deeper than the JSON limit"),
    ],
)
def test_an_invalid_message_is_refused(raw: bytes) -> None:
    """The error names the kind."""
    with pytest.raises(errors.BadRequest, match=r'^Lease in version "v1" cannot be handled as a Lease: '):
        _ = protobuf.decode(envelope(raw, LEASES, "Lease"), Lease, LEASES).object


def test_unknown_fields_are_ignored() -> None:
    """As in Go."""
    assert Lease() == protobuf.decode(envelope(b"\xf8\x07\x01"), Lease, LEASES).object


def test_invalid_utf_8_is_replaced() -> None:
    """By replacement characters, as when Go writes it as JSON."""
    raw = b"\x0a\x05\x0a\x03a\xffb"
    assert "a\ufffdb" == protobuf.decode(envelope(raw), Lease, LEASES).object.metadata.name


@pytest.mark.parametrize(
    "time",
    [meta_v1_pb2.Time(), meta_v1_pb2.Time(seconds=-62_135_596_800, nanos=0)],
    ids=["an empty message", "Go's zero time"],
)
def test_an_empty_time_is_none(time: meta_v1_pb2.Time) -> None:
    """An empty message, and Go's zero time."""
    raw = meta_v1_pb2.PartialObjectMetadata(metadata=meta_v1_pb2.ObjectMeta(creationTimestamp=time))
    decoded = protobuf.decode(envelope(raw.SerializeToString()), Lease, LEASES)
    assert decoded.object.metadata.creation_timestamp is None


def test_times_lose_their_nanoseconds() -> None:
    """A Time has whole seconds; a MicroTime has microseconds, even before 1970."""
    meta = objects.ObjectMeta(creation_timestamp="1969-12-31T23:59:59Z")
    obj = Lease(metadata=meta, spec=LeaseSpec(renew_time="1969-12-31T23:59:58.999999Z"))
    decoded = protobuf.decode(protobuf.encode(obj, LEASES, "Lease"), Lease, LEASES).object
    assert ("1969-12-31T23:59:59Z", "1969-12-31T23:59:58.999999Z") == (
        decoded.metadata.creation_timestamp,
        decoded.spec.renew_time,
    )


def test_maps_of_strings_and_bytes() -> None:
    """Their keys are sorted."""
    obj = ConfigMap(
        kind="ConfigMap", api_version="v1", immutable=False, data={"b": "", "a": "x"}, binary_data={"c": b"\x00"}
    )
    decoded = protobuf.decode(protobuf.encode(obj, "v1", "ConfigMap"), ConfigMap, "v1").object
    assert (obj, ["a", "b"]) == (decoded, list(decoded.data))


def test_maps_of_lists() -> None:
    """Each list of a map is a message of its own."""
    obj = UserInfo(username="jane", extra={"a": ["1", "2"], "b": []})
    body = protobuf.encode(obj, "authentication.k8s.io/v1", "UserInfo")
    assert obj == protobuf.decode(body, UserInfo, "authentication.k8s.io/v1").object


def test_field_sets_are_json() -> None:
    """The fields of managedFields are JSON in a bytes field, and are compacted when they are decoded."""
    entry = objects.ManagedFieldsEntry(manager="m", fields_v1=msgspec.Raw(b'{"f:a": {}}'))
    obj = Lease(metadata=objects.ObjectMeta(managed_fields=[entry]))
    decoded = protobuf.decode(protobuf.encode(obj, LEASES, "Lease"), Lease, LEASES).object
    assert b'{"f:a":{}}' == bytes(decoded.metadata.managed_fields[0].fields_v1)


def test_lists_have_metadata_and_items() -> None:
    """A list is one message with the metadata of the list and all items."""
    body = protobuf.encode_list([lease(), lease()], LEASES, "LeaseList", {"resourceVersion": "7", "continue": "c"})
    unknown = runtime_pb2.Unknown.FromString(body[4:])
    assert (LEASES, "LeaseList") == (unknown.typeMeta.apiVersion, unknown.typeMeta.kind)
    assert 2 == unknown.raw.count(b"conf-pb")


def test_watch_events_are_frames() -> None:
    """A frame is four bytes of length and a WatchEvent, whose object is a whole body."""
    frame = protobuf.encode_watch_event("ADDED", lease(), LEASES, "Lease")
    event = meta_v1_pb2.WatchEvent.FromString(frame[4:])
    assert (len(frame) - 4, "ADDED") == (int.from_bytes(frame[:4], "big"), event.type)
    assert lease() == protobuf.decode(event.object.raw, Lease, LEASES).object


def test_status_as_a_body_and_in_a_watch_event() -> None:
    """A failed watch ends with a Status."""
    status = errors.Conflict.for_object("leases", "coordination.k8s.io", "x").status()
    decoded = protobuf.decode(protobuf.encode_status(status), responses.Status).object
    frame = protobuf.encode_watch_status("ERROR", status)
    assert (409, "Conflict", "leases") == (decoded.code, decoded.reason, decoded.details.kind)
    assert protobuf.encode_status(status) == meta_v1_pb2.WatchEvent.FromString(frame[4:]).object.raw


@pytest.mark.parametrize(
    ("name", "api_version", "expected"),
    [
        ("CertificateSigningRequest", "certificates.k8s.io/v1", "k8s.io.api.certificates.v1.CertificateSigningRequest"),
        ("Event", "v1", "k8s.io.api.core.v1.Event"),
        ("Event", "events.k8s.io/v1", "k8s.io.api.events.v1.Event"),
        ("ObjectReference", "events.k8s.io/v1", "k8s.io.api.core.v1.ObjectReference"),
        ("Role", "rbac.authorization.k8s.io/v1", "k8s.io.api.rbac.v1.Role"),
        ("DeleteOptions", "rbac.authorization.k8s.io/v1", "k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        ("ClusterTrustBundle", "certificates.k8s.io/v1beta1", "k8s.io.api.certificates.v1beta1.ClusterTrustBundle"),
        ("TokenRequest", "v1", "k8s.io.api.authentication.v1.TokenRequest"),
    ],
)
def test_the_message_of_a_type(name: str, api_version: str, expected: str) -> None:
    """The group's package is searched first, then the shared types, then the core group."""
    assert expected == protobuf.message_name(name, api_version)


def test_a_type_without_a_message_raises() -> None:
    """It is not silently encoded as another type."""
    with pytest.raises(LookupError, match="no protobuf message for Unregistered"):
        protobuf.encode(Unregistered(), "v1", "Unregistered")


def test_a_field_that_the_message_lacks_raises() -> None:
    """It is not silently dropped."""
    with pytest.raises(LookupError, match="lacks field colour of Namespace"):
        protobuf.encode(Namespace(), "v1", "Namespace")
