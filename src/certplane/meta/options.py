"""The options of requests: parsed from the query parameters (or, for deletions, the body) and validated.

Source: `k8s.io/apimachinery/pkg/apis/meta/v1` (types, validation), `.../apis/meta/internalversion/validation`; the
conversion of query parameters is `.../pkg/runtime/conversion.go`: the first of several values counts, and an empty or
unknown boolean is true.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Final

from certplane import errors
from certplane.errors import Problems
from certplane.golang import formatting
from certplane.meta import objects, validation

Query = Mapping[str, Sequence[str]]

_META: Final = "meta.k8s.io"
_FIELD_VALIDATIONS: Final = ("", "Ignore", "Strict", "Warn")
_POLICIES: Final = ("Foreground", "Background", "Orphan")


@dataclasses.dataclass(frozen=True, slots=True)
class ListOptions:
    """Options of list, watch and deletecollection. Omitted numbers are 0; a negative `limit` means none."""

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
    """Options of create, update and patch. `field_validation` is Ignore, Warn or Strict; `force` is for server-side
    apply.
    """

    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = "Warn"
    force: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Options of delete and deletecollection. `propagation` is empty if the client named no policy.
    `is_legacy_cascade`: the client sent orphanDependents=false, for which the response code is 202 while the object
    still exists.
    """

    dry_run: bool = False
    propagation: str = ""
    uid: str | None = None
    resource_version: str | None = None
    is_legacy_cascade: bool = False


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
        raise errors.BadRequest(f"strconv.ParseInt: parsing {formatting.quote(text)}: invalid syntax")
    value = int(text) if len(text) < 30 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise errors.BadRequest(f"strconv.ParseInt: parsing {formatting.quote(text)}: value out of range")
    return value


# --- lists and watches --------------------------------------------------------------------------------------------


def list_options(query: Query) -> ListOptions:
    """Parse the options of a list or watch. Raises BadRequest for malformed values, Invalid for invalid combinations.

    A watch without a resourceVersion requests the initial events. Watches below the path /watch/ are validated like
    lists, because their query does not say that they are watches.
    """
    watching = bool(_boolean(query, "watch"))
    options = ListOptions(
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
    is_explicit = options.send_initial_events is not None or options.resource_version_match
    if watching and not is_explicit and options.resource_version in ("", "0"):
        options = dataclasses.replace(options, send_initial_events=True, resource_version_match="NotOlderThan")
    problems = _watch_problems(options) if watching else _list_problems(options)
    if problems:
        raise errors.Invalid("ListOptions", _META, "", problems)
    return options


def _list_problems(options: ListOptions) -> Problems:
    problems = []
    path = "resourceVersionMatch"
    if match := options.resource_version_match:
        if not options.resource_version:
            problems.append(errors.forbidden(path, f"{path} is forbidden unless resourceVersion is provided"))
        if options.continue_token:
            problems.append(errors.forbidden(path, f"{path} is forbidden when continue is provided"))
        if match not in ("Exact", "NotOlderThan"):
            problems.append(errors.not_supported(path, match, ("Exact", "NotOlderThan", ""), as_json=True))
        if match == "Exact" and options.resource_version == "0":
            problems.append(errors.forbidden(path, f'{path} "exact" is forbidden for resourceVersion "0"'))
    if options.send_initial_events is not None:
        problems.append(errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    return problems


def _watch_problems(options: ListOptions) -> Problems:
    problems = []
    path, match = "resourceVersionMatch", options.resource_version_match
    if options.send_initial_events is not None and match != "NotOlderThan":
        detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        problems.append(errors.forbidden(path, detail))
    if match:
        if options.send_initial_events is None:
            detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            problems.append(errors.forbidden(path, detail))
        if match != "NotOlderThan":
            problems.append(errors.not_supported(path, match, ("NotOlderThan",), as_json=True))
        if options.continue_token:
            problems.append(errors.forbidden(path, f"{path} is forbidden when continue is provided"))
    return problems


# --- writes -------------------------------------------------------------------------------------------------------


def create_options(query: Query) -> WriteOptions:
    """Parse the options of a create. Raises Invalid."""
    return _write_options(query, "CreateOptions", [])


def update_options(query: Query) -> WriteOptions:
    """Parse the options of an update. Raises Invalid."""
    return _write_options(query, "UpdateOptions", [])


def patch_options(query: Query, *, is_apply: bool) -> WriteOptions:
    """Parse the options of a patch. Only server-side apply needs a manager, and may be forced. Raises Invalid."""
    problems = []
    if not is_apply and "force" in query:
        problems.append(errors.forbidden("force", "may not be specified for non-apply patch"))
    if is_apply and not _first(query, "fieldManager"):
        problems.append(errors.required("fieldManager", "is required for apply patch"))
    return _write_options(query, "PatchOptions", problems)


def _write_options(query: Query, kind: str, problems: Problems) -> WriteOptions:
    manager = _first(query, "fieldManager")
    field_validation = _first(query, "fieldValidation")
    problems = [
        *problems,
        *validation.manager_problems("fieldManager", manager),
        *_dry_run_problems(query.get("dryRun", ())),
    ]
    if field_validation not in _FIELD_VALIDATIONS:
        problems.append(errors.not_supported("fieldValidation", field_validation, _FIELD_VALIDATIONS))
    if problems:
        raise errors.Invalid(kind, _META, "", problems)
    return WriteOptions(bool(query.get("dryRun")), manager, field_validation or "Warn", bool(_boolean(query, "force")))


def _dry_run_problems(values: Sequence[str]) -> Problems:
    if all(value == "All" for value in values):
        return []
    return [errors.not_supported("dryRun", list(values), ("All",))]


# --- deletions ----------------------------------------------------------------------------------------------------


def delete_options(query: Query, body: objects.DeleteOptions | None) -> DeleteOptions:
    """The options of a deletion: those of the body, if there is one, else those of the query. Raises Invalid."""
    options = body if body is not None else _from_query(query)
    policy = options.propagation_policy
    problems = []
    if policy is not None and options.orphan_dependents is not None:
        detail = "orphanDependents and deletionPropagation cannot be both set"
        problems.append(errors.invalid("propagationPolicy", policy, detail, as_json=True))
    if policy is not None and policy not in _POLICIES:
        problems.append(errors.not_supported("propagationPolicy", policy, (*_POLICIES, "nil"), as_json=True))
    problems.extend(_dry_run_problems(options.dry_run))
    if problems:
        raise errors.Invalid("DeleteOptions", _META, "", problems)
    if policy is None and options.orphan_dependents is not None:
        policy = "Orphan" if options.orphan_dependents else "Background"
    preconditions = options.preconditions or objects.Preconditions()
    return DeleteOptions(
        dry_run=bool(options.dry_run),
        propagation=policy or "",
        uid=preconditions.uid,
        resource_version=preconditions.resource_version,
        is_legacy_cascade=options.orphan_dependents is False,
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
#: Digits of an amount that overflow Go's int64.
_OVERFLOW_DIGITS: Final = 19
_UNIT: Final = re.compile(r"[^.0-9]+")
_UNITS: Final = frozenset({"ns", "us", "µs", "\u03bcs", "ms", "s", "m", "h"})


def timeout(query: Query) -> float | None:
    """The seconds of the `timeout` query parameter, a Go duration; None if it is missing or negative. Raises
    BadRequest.
    """
    text = _first(query, "timeout") if query else ""
    if not text:
        return None
    duration = formatting.parse_duration(text[text[0] in "+-" :].replace("\u03bcs", "us"))
    if duration is None:
        detail = f"time: {_duration_error(text)} duration {formatting.quote(text)}"
        raise errors.BadRequest(f"invalid timeout specified in the request URL - {detail}")
    return duration.total_seconds() if not text.startswith("-") else None


def _duration_error(text: str) -> str:
    """The first error that Go's time.ParseDuration finds in a text that is no duration."""
    position = 1 if text[0] in "+-" else 0
    while amount := _AMOUNT.match(text, position):
        if len(amount[0].partition(".")[0].lstrip("0")) >= _OVERFLOW_DIGITS:
            break
        unit = _UNIT.match(text, amount.end())
        if unit is None:
            return "missing unit in"
        if unit[0] not in _UNITS:
            return f"unknown unit {formatting.quote(unit[0])} in"
        position = unit.end()
    return "invalid"
