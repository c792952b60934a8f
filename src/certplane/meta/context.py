"""What a verb knows about its call, and the notions that requests share: users, attributes, options.

What is made anew for every request is a Struct of msgspec: it takes a fraction of the time of a dataclass.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

import msgspec

from certplane import clock as clocks
from certplane.meta import selectors


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """Who makes a request, as authentication found out (never as a body says)."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))


class RequestInfo(msgspec.Struct, frozen=True):
    """What method and path say about a request, before anything is looked up.

    `verb` is the API's (get, list, watch, create, update, patch, delete, deletecollection) for resources, and the
    lower-cased HTTP method for other paths. `parts` are the path's segments after the version, `field_selector` what is
    asked of the objects of a collection.
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
    field_selector: selectors.FieldSelector = selectors.EVERYTHING


class Attributes(msgspec.Struct, frozen=True):
    """What an authorizer is asked about: may `user` do this? Source:
    `k8s.io/apiserver/pkg/authorization/authorizer`. `field_selector` is that of a list, a watch or a deletion of many.
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
    field_selector: selectors.FieldSelector = selectors.EVERYTHING
    is_resource: bool = True


class Call(msgspec.Struct):
    """One call of a verb. It collects the texts of Warning headers, in order, and annotations of its audit record.
    `size` says how long it may take, as `offload.run` counts.
    """

    user: User
    info: RequestInfo
    clock: clocks.Clock
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

    def annotate(self, **facts: str) -> None:
        """Have facts written into the audit record, under keys below certplane.io/."""
        for name, value in facts.items():
            self.annotations[f"certplane.io/{name}"] = value

    def warn(self, text: str) -> None:
        self.warnings.append(text)
