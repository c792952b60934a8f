"""The context of a request: its user, its request info, its authorization attributes, and the call of a verb.

Types that are created for every request are msgspec Structs, which are created in a fraction of the time of a
dataclass.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

import msgspec

from certplane.meta import selectors
from certplane.meta.selectors import FieldSelector


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """The authenticated user of a request; never taken from a body."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))


class RequestInfo(msgspec.Struct, frozen=True):
    """What method and path say about a request.

    `verb` is the API verb (get, list, watch, create, update, patch, delete, deletecollection) for resources, and the
    lower-cased HTTP method for other paths. `parts` are the path's segments after the version, `field_selector` is that
    of the query.
    """

    path: str
    verb: str
    is_resource: bool
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    parts: tuple[str, ...] = ()
    field_selector: FieldSelector = selectors.EVERYTHING


class Attributes(msgspec.Struct, frozen=True):
    """The question to an authorizer: may `user` do this? `field_selector` is that of a list, watch or deletecollection.

    Source: `k8s.io/apiserver/pkg/authorization/authorizer`.
    """

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    namespace: str = ""
    path: str = ""
    field_selector: FieldSelector = selectors.EVERYTHING
    is_resource: bool = True


class VerbContext(msgspec.Struct):
    """One call of a verb. It collects the texts of Warning headers, in order, and annotations of its audit record.
    `size` estimates its cost in bytes, for `offload.run`.
    """

    user: User
    info: RequestInfo
    now: datetime.datetime
    request_id: str = ""
    user_agent: str = ""
    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = "Warn"
    force: bool = False
    size: int = 0
    warnings: list[str] = []
    annotations: dict[str, str] = {}

    def annotate(self, **annotations: str) -> None:
        """Add annotations to the audit record, under keys with the prefix certplane.io/."""
        for name, value in annotations.items():
            self.annotations[f"certplane.io/{name}"] = value

    def warn(self, text: str) -> None:
        self.warnings.append(text)
