# mypy: disable-error-code="type-arg,no-untyped-def"
from certplane.wire.pb import meta_v1_pb2 as _meta_v1_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Approval(_message.Message):
    __slots__ = ("username", "method", "reason", "message", "time")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    username: str
    method: str
    reason: str
    message: str
    time: _meta_v1_pb2.Time
    def __init__(self, username: _Optional[str] = ..., method: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., time: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ...) -> None: ...

class CertificateFacts(_message.Message):
    __slots__ = ("serialNumber", "fingerprint", "issuer", "authorityKeyIdentifier", "subject", "commonName", "organizations", "dnsNames", "ipAddresses", "emailAddresses", "uris", "key", "notBefore", "notAfter", "pem")
    SERIALNUMBER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    AUTHORITYKEYIDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    COMMONNAME_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATIONS_FIELD_NUMBER: _ClassVar[int]
    DNSNAMES_FIELD_NUMBER: _ClassVar[int]
    IPADDRESSES_FIELD_NUMBER: _ClassVar[int]
    EMAILADDRESSES_FIELD_NUMBER: _ClassVar[int]
    URIS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOTBEFORE_FIELD_NUMBER: _ClassVar[int]
    NOTAFTER_FIELD_NUMBER: _ClassVar[int]
    PEM_FIELD_NUMBER: _ClassVar[int]
    serialNumber: str
    fingerprint: str
    issuer: str
    authorityKeyIdentifier: str
    subject: str
    commonName: str
    organizations: _containers.RepeatedScalarFieldContainer[str]
    dnsNames: _containers.RepeatedScalarFieldContainer[str]
    ipAddresses: _containers.RepeatedScalarFieldContainer[str]
    emailAddresses: _containers.RepeatedScalarFieldContainer[str]
    uris: _containers.RepeatedScalarFieldContainer[str]
    key: str
    notBefore: _meta_v1_pb2.Time
    notAfter: _meta_v1_pb2.Time
    pem: str
    def __init__(self, serialNumber: _Optional[str] = ..., fingerprint: _Optional[str] = ..., issuer: _Optional[str] = ..., authorityKeyIdentifier: _Optional[str] = ..., subject: _Optional[str] = ..., commonName: _Optional[str] = ..., organizations: _Optional[_Iterable[str]] = ..., dnsNames: _Optional[_Iterable[str]] = ..., ipAddresses: _Optional[_Iterable[str]] = ..., emailAddresses: _Optional[_Iterable[str]] = ..., uris: _Optional[_Iterable[str]] = ..., key: _Optional[str] = ..., notBefore: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ..., notAfter: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ..., pem: _Optional[str] = ...) -> None: ...

class CertificateRequest(_message.Message):
    __slots__ = ("kind", "namespace", "name", "uid", "usages", "expirationSeconds")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    USAGES_FIELD_NUMBER: _ClassVar[int]
    EXPIRATIONSECONDS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    namespace: str
    name: str
    uid: str
    usages: _containers.RepeatedScalarFieldContainer[str]
    expirationSeconds: int
    def __init__(self, kind: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ..., usages: _Optional[_Iterable[str]] = ..., expirationSeconds: _Optional[int] = ...) -> None: ...

class IssuedCertificate(_message.Message):
    __slots__ = ("metadata", "signerName", "certificate", "request", "requester", "approval", "source")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SIGNERNAME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ObjectMeta
    signerName: str
    certificate: CertificateFacts
    request: CertificateRequest
    requester: Requester
    approval: Approval
    source: Source
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ObjectMeta, _Mapping]] = ..., signerName: _Optional[str] = ..., certificate: _Optional[_Union[CertificateFacts, _Mapping]] = ..., request: _Optional[_Union[CertificateRequest, _Mapping]] = ..., requester: _Optional[_Union[Requester, _Mapping]] = ..., approval: _Optional[_Union[Approval, _Mapping]] = ..., source: _Optional[_Union[Source, _Mapping]] = ...) -> None: ...

class IssuedCertificateList(_message.Message):
    __slots__ = ("metadata", "items")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ListMeta
    items: _containers.RepeatedCompositeFieldContainer[IssuedCertificate]
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ListMeta, _Mapping]] = ..., items: _Optional[_Iterable[_Union[IssuedCertificate, _Mapping]]] = ...) -> None: ...

class Requester(_message.Message):
    __slots__ = ("username", "uid", "groups")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    username: str
    uid: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, username: _Optional[str] = ..., uid: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("type", "username", "origin")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    type: str
    username: str
    origin: str
    def __init__(self, type: _Optional[str] = ..., username: _Optional[str] = ..., origin: _Optional[str] = ...) -> None: ...
