# mypy: disable-error-code="type-arg,no-untyped-def"
from certplane.wire.pb import meta_v1_pb2 as _meta_v1_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AutomaticApproval(_message.Message):
    __slots__ = ("users", "groups")
    USERS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedScalarFieldContainer[str]
    groups: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, users: _Optional[_Iterable[str]] = ..., groups: _Optional[_Iterable[str]] = ...) -> None: ...

class SigningPreview(_message.Message):
    __slots__ = ("metadata", "spec", "status")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ObjectMeta
    spec: SigningPreviewSpec
    status: SigningPreviewStatus
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ObjectMeta, _Mapping]] = ..., spec: _Optional[_Union[SigningPreviewSpec, _Mapping]] = ..., status: _Optional[_Union[SigningPreviewStatus, _Mapping]] = ...) -> None: ...

class SigningPreviewSpec(_message.Message):
    __slots__ = ("request", "signerName", "usages", "expirationSeconds", "username")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNERNAME_FIELD_NUMBER: _ClassVar[int]
    USAGES_FIELD_NUMBER: _ClassVar[int]
    EXPIRATIONSECONDS_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    signerName: str
    usages: _containers.RepeatedScalarFieldContainer[str]
    expirationSeconds: int
    username: str
    def __init__(self, request: _Optional[bytes] = ..., signerName: _Optional[str] = ..., usages: _Optional[_Iterable[str]] = ..., expirationSeconds: _Optional[int] = ..., username: _Optional[str] = ...) -> None: ...

class SigningPreviewStatus(_message.Message):
    __slots__ = ("result", "messages", "remedy", "warnings", "description", "lifetimeSeconds", "maxLifetimeSeconds", "notAfter", "caSubject", "caIssuer", "caNotAfter", "suitableSigners", "automaticApprovals")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LIFETIMESECONDS_FIELD_NUMBER: _ClassVar[int]
    MAXLIFETIMESECONDS_FIELD_NUMBER: _ClassVar[int]
    NOTAFTER_FIELD_NUMBER: _ClassVar[int]
    CASUBJECT_FIELD_NUMBER: _ClassVar[int]
    CAISSUER_FIELD_NUMBER: _ClassVar[int]
    CANOTAFTER_FIELD_NUMBER: _ClassVar[int]
    SUITABLESIGNERS_FIELD_NUMBER: _ClassVar[int]
    AUTOMATICAPPROVALS_FIELD_NUMBER: _ClassVar[int]
    result: str
    messages: _containers.RepeatedScalarFieldContainer[str]
    remedy: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    description: str
    lifetimeSeconds: int
    maxLifetimeSeconds: int
    notAfter: _meta_v1_pb2.Time
    caSubject: str
    caIssuer: str
    caNotAfter: _meta_v1_pb2.Time
    suitableSigners: _containers.RepeatedScalarFieldContainer[str]
    automaticApprovals: _containers.RepeatedCompositeFieldContainer[AutomaticApproval]
    def __init__(self, result: _Optional[str] = ..., messages: _Optional[_Iterable[str]] = ..., remedy: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ..., lifetimeSeconds: _Optional[int] = ..., maxLifetimeSeconds: _Optional[int] = ..., notAfter: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ..., caSubject: _Optional[str] = ..., caIssuer: _Optional[str] = ..., caNotAfter: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ..., suitableSigners: _Optional[_Iterable[str]] = ..., automaticApprovals: _Optional[_Iterable[_Union[AutomaticApproval, _Mapping]]] = ...) -> None: ...
