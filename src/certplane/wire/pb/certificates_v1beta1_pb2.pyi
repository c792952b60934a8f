# mypy: disable-error-code="type-arg,no-untyped-def"
from certplane.wire.pb import meta_v1_pb2 as _meta_v1_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClusterTrustBundle(_message.Message):
    __slots__ = ("metadata", "spec")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ObjectMeta
    spec: ClusterTrustBundleSpec
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ObjectMeta, _Mapping]] = ..., spec: _Optional[_Union[ClusterTrustBundleSpec, _Mapping]] = ...) -> None: ...

class ClusterTrustBundleList(_message.Message):
    __slots__ = ("metadata", "items")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ListMeta
    items: _containers.RepeatedCompositeFieldContainer[ClusterTrustBundle]
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ListMeta, _Mapping]] = ..., items: _Optional[_Iterable[_Union[ClusterTrustBundle, _Mapping]]] = ...) -> None: ...

class ClusterTrustBundleSpec(_message.Message):
    __slots__ = ("signerName", "trustBundle")
    SIGNERNAME_FIELD_NUMBER: _ClassVar[int]
    TRUSTBUNDLE_FIELD_NUMBER: _ClassVar[int]
    signerName: str
    trustBundle: str
    def __init__(self, signerName: _Optional[str] = ..., trustBundle: _Optional[str] = ...) -> None: ...

class PodCertificateRequest(_message.Message):
    __slots__ = ("metadata", "spec", "status")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ObjectMeta
    spec: PodCertificateRequestSpec
    status: PodCertificateRequestStatus
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ObjectMeta, _Mapping]] = ..., spec: _Optional[_Union[PodCertificateRequestSpec, _Mapping]] = ..., status: _Optional[_Union[PodCertificateRequestStatus, _Mapping]] = ...) -> None: ...

class PodCertificateRequestList(_message.Message):
    __slots__ = ("metadata", "items")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    metadata: _meta_v1_pb2.ListMeta
    items: _containers.RepeatedCompositeFieldContainer[PodCertificateRequest]
    def __init__(self, metadata: _Optional[_Union[_meta_v1_pb2.ListMeta, _Mapping]] = ..., items: _Optional[_Iterable[_Union[PodCertificateRequest, _Mapping]]] = ...) -> None: ...

class PodCertificateRequestSpec(_message.Message):
    __slots__ = ("signerName", "podName", "podUID", "serviceAccountName", "serviceAccountUID", "nodeName", "nodeUID", "maxExpirationSeconds", "pkixPublicKey", "proofOfPossession", "unverifiedUserAnnotations", "stubPKCS10Request")
    class UnverifiedUserAnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SIGNERNAME_FIELD_NUMBER: _ClassVar[int]
    PODNAME_FIELD_NUMBER: _ClassVar[int]
    PODUID_FIELD_NUMBER: _ClassVar[int]
    SERVICEACCOUNTNAME_FIELD_NUMBER: _ClassVar[int]
    SERVICEACCOUNTUID_FIELD_NUMBER: _ClassVar[int]
    NODENAME_FIELD_NUMBER: _ClassVar[int]
    NODEUID_FIELD_NUMBER: _ClassVar[int]
    MAXEXPIRATIONSECONDS_FIELD_NUMBER: _ClassVar[int]
    PKIXPUBLICKEY_FIELD_NUMBER: _ClassVar[int]
    PROOFOFPOSSESSION_FIELD_NUMBER: _ClassVar[int]
    UNVERIFIEDUSERANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    STUBPKCS10REQUEST_FIELD_NUMBER: _ClassVar[int]
    signerName: str
    podName: str
    podUID: str
    serviceAccountName: str
    serviceAccountUID: str
    nodeName: str
    nodeUID: str
    maxExpirationSeconds: int
    pkixPublicKey: bytes
    proofOfPossession: bytes
    unverifiedUserAnnotations: _containers.ScalarMap[str, str]
    stubPKCS10Request: bytes
    def __init__(self, signerName: _Optional[str] = ..., podName: _Optional[str] = ..., podUID: _Optional[str] = ..., serviceAccountName: _Optional[str] = ..., serviceAccountUID: _Optional[str] = ..., nodeName: _Optional[str] = ..., nodeUID: _Optional[str] = ..., maxExpirationSeconds: _Optional[int] = ..., pkixPublicKey: _Optional[bytes] = ..., proofOfPossession: _Optional[bytes] = ..., unverifiedUserAnnotations: _Optional[_Mapping[str, str]] = ..., stubPKCS10Request: _Optional[bytes] = ...) -> None: ...

class PodCertificateRequestStatus(_message.Message):
    __slots__ = ("conditions", "certificateChain", "notBefore", "beginRefreshAt", "notAfter")
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATECHAIN_FIELD_NUMBER: _ClassVar[int]
    NOTBEFORE_FIELD_NUMBER: _ClassVar[int]
    BEGINREFRESHAT_FIELD_NUMBER: _ClassVar[int]
    NOTAFTER_FIELD_NUMBER: _ClassVar[int]
    conditions: _containers.RepeatedCompositeFieldContainer[_meta_v1_pb2.Condition]
    certificateChain: str
    notBefore: _meta_v1_pb2.Time
    beginRefreshAt: _meta_v1_pb2.Time
    notAfter: _meta_v1_pb2.Time
    def __init__(self, conditions: _Optional[_Iterable[_Union[_meta_v1_pb2.Condition, _Mapping]]] = ..., certificateChain: _Optional[str] = ..., notBefore: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ..., beginRefreshAt: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ..., notAfter: _Optional[_Union[_meta_v1_pb2.Time, _Mapping]] = ...) -> None: ...
