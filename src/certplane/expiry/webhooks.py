"""Announces what ends to webhooks: each until it accepts, with growing pauses, and nothing twice.

What was announced is kept in a file, so a restart repeats nothing. It is written after a webhook has accepted, so a
crash in between repeats the last message: twice is better than never. Nothing is queued: what is due is decided anew
before each attempt, so a webhook that was unreachable for a week gets one message.

The URL and the key are read for each attempt, so they can be replaced, and neither is ever logged. The signature is an
HMAC with SHA-256 of the timestamp, a dot and the body, in hex; a receiver compares it, and refuses old timestamps.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import hashlib
import hmac
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

import certplane
from certplane import clock, files, timestamps
from certplane.client import webpost
from certplane.client.webpost import PostError
from certplane.clock import Clock
from certplane.errors import SetupError
from certplane.expiry import notices
from certplane.expiry.notices import Announced, Decision
from certplane.expiry.settings import API_VERSION, WebhookSettings
from certplane.expiry.watch import Watch
from certplane.golang import formatting

_log: Final = logging.getLogger("certplane.watch")

#: Certificates that one message lists; it counts the others.
MAX_LISTED: Final = 50
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 3600.0
#: How often thresholds are looked at, though nothing was read.
_CHECK_SECONDS: Final = 60.0
_MAX_SECRET: Final = 4096
_MAX_CA: Final = 4 << 20
_MAX_STATE: Final = 256 << 20
_WHAT: Final = "the state directory"


class _State(msgspec.Struct):
    """What was announced, by webhook and key."""

    webhooks: dict[str, dict[str, Announced]] = {}


class NoticeStore:
    """The file with what was announced."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._path = directory / "notifications.json"
        self._state = _State()
        self._problem = ""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Read the file, and keep other processes out. Raises SetupError."""
        files.make_directory(self._directory, _WHAT)
        files.check_directory(self._directory, _WHAT)
        lock = self._directory / "watch.lock"
        with files.as_setup_error(f"{lock} cannot be locked", "check the permissions of the directory"):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SetupError(
                    f"another certplane watch uses {self._directory}",
                    ("stop it, or set stateDirectory to another directory in the configuration",),
                ) from error
            self._read()
            yield
        finally:
            os.close(handle)

    def _read(self) -> None:
        with files.as_setup_error(f"{self._path} cannot be read", "check its owner and mode, or move it away"):
            try:
                self._state = msgspec.json.decode(files.read_regular(self._path, _MAX_STATE), type=_State)
            except FileNotFoundError:
                return
            except msgspec.DecodeError:
                # Starting anew repeats announcements. Not starting would end them.
                _log.error("the file of announcements is damaged; they will be repeated", extra={"path": self._path})

    def announced(self, webhook: str) -> dict[str, Announced]:
        """What was announced to a webhook."""
        return self._state.webhooks.setdefault(webhook, {})

    def write(self) -> None:
        """Write the file. A failure is logged: within this process nothing is repeated all the same."""
        try:
            files.write(self._path, msgspec.json.encode(self._state))
            self._problem = ""
        except (SetupError, OSError) as error:
            if self._problem != str(error):
                self._problem = str(error)
                _log.error("announcements cannot be recorded", extra={"error": self._problem})


class Webhook:
    """Announces to one webhook."""

    def __init__(self, settings: WebhookSettings, watch: Watch, store: NoticeStore, timer: Clock) -> None:
        self.settings = settings
        self._watch = watch
        self._store = store
        self._clock = timer
        self._changed = asyncio.Event()
        self.sent = 0
        self.failures = 0
        self._failures_in_row = 0
        watch.on_change(self._changed.set)

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            self._changed.clear()
            pause = await self.check()
            if pause is not None:
                await self._clock.sleep(pause)
            else:
                await clock.wait_until(self._clock, self._changed, _CHECK_SECONDS)

    async def check(self) -> float | None:
        """Announce what is due. Returns after how many seconds to try again; None if it was accepted."""
        states = self._watch.states
        # At the start, one message is better than one for each source.
        if not all(state.is_read or state.problem for state in states):
            return None
        announced = self._store.announced(self.settings.name)
        decision = notices.decide(
            states, self.settings.thresholds, self.settings.sources, announced, self._clock.now().timestamp()
        )
        if decision.due or decision.settled:
            try:
                await self._send(decision)
            except PostError as error:
                return self._record_failure(str(error))
            self.sent += 1
            self._failures_in_row = 0
            _log.info(
                "announced",
                extra={"webhook": self.settings.name, "due": len(decision.due), "settled": len(decision.settled)},
            )
        if decision.due or decision.settled or decision.forgotten:
            for key in (*decision.settled, *decision.forgotten):
                announced.pop(key, None)
            announced.update(decision.due)
            self._store.write()
        return None

    def _record_failure(self, problem: str) -> float:
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures_in_row, 20), _LONGEST_PAUSE)
        self._failures_in_row += 1
        self.failures += 1
        count = self._failures_in_row
        # Only failures 1, 2, 4, 8...: a webhook that is away for days must not fill the log.
        if count & (count - 1) == 0:
            extra = {"webhook": self.settings.name, "error": problem, "failures": count, "retry_in": f"{pause:g}s"}
            _log.error("announcement failed", extra=extra)
        return pause

    async def _send(self, decision: Decision) -> None:
        settings = self.settings
        url = _secret(settings.url_file, "the URL").decode("utf-8", "replace")
        ca = ""
        if settings.ca_file is not None:
            ca = _read(settings.ca_file, "the CA file", _MAX_CA).decode("ascii", "replace")
        now = self._clock.now()
        document = _FORMATS[settings.format](decision, settings.name, now.timestamp())
        body = msgspec.json.encode(document)
        fields = [("user-agent", f"certplane-watch/{certplane.__version__}")]
        timestamp = str(int(now.timestamp()))
        fields.append(("x-certplane-timestamp", timestamp))
        if settings.secret_file is not None:
            key = _secret(settings.secret_file, "the key")
            signature = hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
            fields.append(("x-certplane-signature", f"sha256={signature}"))
        await webpost.post(url, body, fields, self._clock, ca)


def _secret(path: pathlib.Path, what: str) -> bytes:
    content = _read(path, what, _MAX_SECRET).strip()
    if not content:
        raise PostError(f"{what} in {path} is empty")
    return content


def _read(path: pathlib.Path, what: str, limit: int) -> bytes:
    try:
        return files.read_regular(path, limit)
    except OSError as error:
        raise PostError(f"{what} in {path} cannot be read: {files.error_text(error)}") from error


def metrics(webhooks: Sequence[Webhook]) -> str:
    """The metrics of the webhooks."""
    if not webhooks:
        return ""
    name = "certplane_watch_notifications_total"
    lines = [f"# HELP {name} Messages to webhooks, by result.", f"# TYPE {name} counter"]
    for webhook in webhooks:
        for result, count in (("success", webhook.sent), ("error", webhook.failures)):
            lines.append(f'{name}{{webhook="{webhook.settings.name}",result="{result}"}} {count}')
    return "".join(f"{line}\n" for line in lines)


# --- messages -----------------------------------------------------------------------------------------------------


def _listed(decision: Decision) -> list[tuple[str, Announced]]:
    """The state and the certificate: what ends soonest first, then what is settled."""
    due = sorted(decision.due.values(), key=lambda item: item.not_after)
    return [("due", item) for item in due] + [("settled", item) for item in decision.settled.values()]


def _json(decision: Decision, webhook: str, now: float) -> Mapping[str, Any]:
    items = _listed(decision)
    return {
        "apiVersion": API_VERSION,
        "kind": "ExpirationNotice",
        "webhook": webhook,
        "time": timestamps.rfc3339(_time(now)),
        "certificates": [
            {
                "state": "settled" if state == "settled" else "ended" if item.not_after < now else "ending",
                "source": item.source,
                "path": item.path,
                "place": item.place,
                "subject": item.subject,
                "issuer": item.issuer,
                "serialNumber": item.serial,
                "notAfter": timestamps.rfc3339(_time(item.not_after)),
                "secondsLeft": int(item.not_after - now),
                "threshold": formatting.human_duration(item.threshold),
            }
            for state, item in items[:MAX_LISTED]
        ],
        "omitted": max(0, len(items) - MAX_LISTED),
    }


def _slack(decision: Decision, webhook: str, now: float) -> Mapping[str, Any]:
    del webhook
    items = _listed(decision)
    lines = []
    for state, item in items[:MAX_LISTED]:
        where = " ".join(filter(None, (item.path, item.place)))
        left = formatting.human_duration(abs(item.not_after - now))
        if state == "settled":
            text = "was renewed or removed"
        else:
            text = f"ended {left} ago" if item.not_after < now else f"ends in {left}"
        lines.append(f"*{_escape(item.subject or item.serial)}* {text}: {_escape(where)} ({_escape(item.source)})")
    if len(items) > MAX_LISTED:
        lines.append(f"and {len(items) - MAX_LISTED} more")
    return {"text": "\n".join(lines)}


def _escape(text: str) -> str:
    """A text that is no markup in Slack: the names of certificates are not ours."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"{char}\u200b" if char in "*_~`" else char for char in escaped)


_FORMATS: Final = {"json": _json, "slack": _slack}


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
