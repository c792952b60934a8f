"""The options of requests, from their query parameters (and, for deletions, their body), judged.

Source: `k8s.io/apimachinery/pkg/apis/meta/v1` (types, validation), `.../apis/meta/internalversion/validation`; the
conversion of query parameters is `.../pkg/runtime/conversion.go`: of several values the first counts, an empty or
unknown boolean is true.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Final

from certplane import errors, gotext
from certplane.meta import objects, validation

Query = Mapping[str, Sequence[str]]

_META: Final = "meta.k8s.io"
_FIELD_VALIDATIONS: Final = ("", "Ignore", "Strict", "Warn")
_POLICIES: Final = ("Foreground", "Background", "Orphan")


@dataclasses.dataclass(frozen=True, slots=True)
class ListOptions:
    """Of list, watch and deletecollection. Numbers that were not sent are 0; `limit` may be negative, meaning none."""

    label_selector: str = ""
    field_selector: str = ""
    watch: bool = False
    allow_watch_bookmarks: bool = False
    resource_version: str = ""
    resource_version_match: str = ""
    timeout_seconds: int = 0
    limit: int = 0
    continue_token: str = ""
    send_initial_events: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class WriteOptions:
    """Of create, update and patch. `field_validation` is Ignore, Warn or Strict; `force` is server-side apply's."""

    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = "Warn"
    force: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Of delete and deletecollection. `propagation` is empty if nothing was asked for. `is_patient`: dependents are to
    go, which was said in the old way, and then the answer tells whether that is still to be done.
    """

    dry_run: bool = False
    propagation: str = ""
    uid: str | None = None
    resource_version: str | None = None
    grace_period_seconds: int | None = None
    is_patient: bool = False


def _first(query: Query, name: str) -> str:
    values = query.get(name)
    return values[0] if values else ""


def _boolean(query: Query, name: str) -> bool | None:
    if name not in query:
        return None
    return _first(query, name).lower() not in ("false", "0")


def _integer(query: Query, name: str) -> int:
    if name not in query:
        return 0
    text = _first(query, name)
    if re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII) is None:
        raise errors.BadRequest(f"strconv.ParseInt: parsing {gotext.quote(text)}: invalid syntax")
    value = int(text) if len(text) < 30 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise errors.BadRequest(f"strconv.ParseInt: parsing {gotext.quote(text)}: value out of range")
    return value


# --- lists and watches --------------------------------------------------------------------------------------------


def list_options(query: Query) -> ListOptions:
    """Raises BadRequest for values that cannot be read, Invalid for combinations that make no sense.

    A watch that starts anywhere is one that asks for the initial events. Watches below the path /watch/ are judged like
    lists, because their query does not say that they are watches.
    """
    watching = bool(_boolean(query, "watch"))
    found = ListOptions(
        label_selector=_first(query, "labelSelector"),
        field_selector=_first(query, "fieldSelector"),
        watch=watching,
        allow_watch_bookmarks=bool(_boolean(query, "allowWatchBookmarks")),
        resource_version=_first(query, "resourceVersion"),
        resource_version_match=_first(query, "resourceVersionMatch"),
        timeout_seconds=_integer(query, "timeoutSeconds"),
        limit=_integer(query, "limit"),
        continue_token=_first(query, "continue"),
        send_initial_events=_boolean(query, "sendInitialEvents"),
    )
    asks = found.send_initial_events is not None or found.resource_version_match
    if watching and not asks and found.resource_version in ("", "0"):
        found = dataclasses.replace(found, send_initial_events=True, resource_version_match="NotOlderThan")
    problems = _watch_problems(found) if watching else _list_problems(found)
    if problems:
        raise errors.Invalid("ListOptions", _META, "", problems)
    return found


def _list_problems(of: ListOptions) -> list[errors.FieldProblem]:
    problems = []
    path = "resourceVersionMatch"
    if match := of.resource_version_match:
        if not of.resource_version:
            problems.append(errors.forbidden(path, f"{path} is forbidden unless resourceVersion is provided"))
        if of.continue_token:
            problems.append(errors.forbidden(path, f"{path} is forbidden when continue is provided"))
        if match not in ("Exact", "NotOlderThan"):
            problems.append(errors.not_supported(path, match, ("Exact", "NotOlderThan", ""), as_json=True))
        if match == "Exact" and of.resource_version == "0":
            problems.append(errors.forbidden(path, f'{path} "exact" is forbidden for resourceVersion "0"'))
    if of.send_initial_events is not None:
        problems.append(errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    return problems


def _watch_problems(of: ListOptions) -> list[errors.FieldProblem]:
    problems = []
    path, match = "resourceVersionMatch", of.resource_version_match
    if of.send_initial_events is not None and match != "NotOlderThan":
        why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        problems.append(errors.forbidden(path, why))
    if match:
        if of.send_initial_events is None:
            why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            problems.append(errors.forbidden(path, why))
        if match != "NotOlderThan":
            problems.append(errors.not_supported(path, match, ("NotOlderThan",), as_json=True))
        if of.continue_token:
            problems.append(errors.forbidden(path, f"{path} is forbidden when continue is provided"))
    return problems


# --- writes -------------------------------------------------------------------------------------------------------


def create_options(query: Query) -> WriteOptions:
    """Raises Invalid."""
    return _write_options(query, "CreateOptions", [])


def update_options(query: Query) -> WriteOptions:
    """Raises Invalid."""
    return _write_options(query, "UpdateOptions", [])


def patch_options(query: Query, *, applies: bool) -> WriteOptions:
    """Raises Invalid. Server-side apply needs a manager; nothing else may be forced."""
    problems = []
    if not applies and "force" in query:
        problems.append(errors.forbidden("force", "may not be specified for non-apply patch"))
    if applies and not _first(query, "fieldManager"):
        problems.append(errors.required("fieldManager", "is required for apply patch"))
    return _write_options(query, "PatchOptions", problems)


def _write_options(query: Query, kind: str, problems: list[errors.FieldProblem]) -> WriteOptions:
    manager = _first(query, "fieldManager")
    strictness = _first(query, "fieldValidation")
    problems = [
        *problems,
        *validation.manager_problems("fieldManager", manager),
        *_dry_run_problems(query.get("dryRun", ())),
    ]
    if strictness not in _FIELD_VALIDATIONS:
        problems.append(errors.not_supported("fieldValidation", strictness, _FIELD_VALIDATIONS))
    if problems:
        raise errors.Invalid(kind, _META, "", problems)
    return WriteOptions(bool(query.get("dryRun")), manager, strictness or "Warn", bool(_boolean(query, "force")))


def _dry_run_problems(values: Sequence[str]) -> list[errors.FieldProblem]:
    if all(value == "All" for value in values):
        return []
    return [errors.not_supported("dryRun", list(values), ("All",))]


# --- deletions ----------------------------------------------------------------------------------------------------


def delete_options(query: Query, sent: objects.DeleteOptions | None) -> DeleteOptions:
    """The options of a deletion: those of the body, if there is one, else those of the query. Raises Invalid."""
    found = sent if sent is not None else _from_query(query)
    policy = found.propagation_policy
    problems = []
    if policy is not None and found.orphan_dependents is not None:
        why = "orphanDependents and deletionPropagation cannot be both set"
        problems.append(errors.invalid("propagationPolicy", policy, why, as_json=True))
    if policy is not None and policy not in _POLICIES:
        problems.append(errors.not_supported("propagationPolicy", policy, (*_POLICIES, "nil"), as_json=True))
    problems.extend(_dry_run_problems(found.dry_run))
    if problems:
        raise errors.Invalid("DeleteOptions", _META, "", problems)
    if policy is None and found.orphan_dependents is not None:
        policy = "Orphan" if found.orphan_dependents else "Background"
    conditions = found.preconditions or objects.Preconditions()
    return DeleteOptions(
        bool(found.dry_run),
        policy or "",
        conditions.uid,
        conditions.resource_version,
        found.grace_period_seconds,
        found.orphan_dependents is False,
    )


def _from_query(query: Query) -> objects.DeleteOptions:
    return objects.DeleteOptions(
        grace_period_seconds=_integer(query, "gracePeriodSeconds") if "gracePeriodSeconds" in query else None,
        orphan_dependents=_boolean(query, "orphanDependents"),
        propagation_policy=_first(query, "propagationPolicy") if "propagationPolicy" in query else None,
        preconditions=objects.Preconditions(
            uid=_first(query, "uid") or None, resource_version=_first(query, "resourceVersion") or None
        ),
        dry_run=list(query.get("dryRun", ())),
    )


# --- deadlines ----------------------------------------------------------------------------------------------------

_AMOUNT: Final = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
_TOO_MANY_DIGITS: Final = 19
_UNIT: Final = re.compile(r"[^.0-9]+")
_UNITS: Final = frozenset({"ns", "us", "µs", "\u03bcs", "ms", "s", "m", "h"})


def timeout(query: Query) -> float | None:
    """The seconds that a client gives a request with the `timeout` parameter, a Go duration. Raises BadRequest."""
    text = _first(query, "timeout") if query else ""
    if not text:
        return None
    found = gotext.parse_duration(text[text[0] in "+-" :].replace("\u03bcs", "us"))
    if found is None:
        why = f"time: {_no_duration(text)} duration {gotext.quote(text)}"
        raise errors.BadRequest(f"invalid timeout specified in the request URL - {why}")
    return found.total_seconds() if not text.startswith("-") else None


def _no_duration(text: str) -> str:
    """What Go finds first that keeps a text from being a duration."""
    at = 1 if text[0] in "+-" else 0
    while (number := _AMOUNT.match(text, at)) and len(number[0].partition(".")[0].lstrip("0")) < _TOO_MANY_DIGITS:
        unit = _UNIT.match(text, number.end())
        if unit is None:
            return "missing unit in"
        if unit[0] not in _UNITS:
            return f"unknown unit {gotext.quote(unit[0])} in"
        at = unit.end()
    return "invalid"
