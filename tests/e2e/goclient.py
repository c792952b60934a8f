"""A client that behaves like client-go. It shares only a table of field numbers with the server.

Bodies are protobuf, as Go's generated code writes it: fields in the order of their numbers, plain fields always, those
behind a pointer only if they are set. What is read must be what Go would have written; anything else is `Damaged`. An
object is the dict that its JSON would be, zero values included.

`protobuf-fields.json` says which message has which fields. Types in it that are not what they seem, because Kubernetes
gives them another form in JSON: times, field sets, and lists within maps.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import datetime
import gzip
import json
import pathlib
import random
import urllib.parse

PROTOBUF = "application/vnd.kubernetes.protobuf"
STREAM = f"{PROTOBUF};stream=watch"
#: What client-go accepts when it is configured for protobuf, as kube-controller-manager is.
ACCEPT = f"{PROTOBUF}, */*"
AGENT = "kube-controller-manager/v1.36.2 (linux/amd64) kubernetes/4cb5f07"
MAGIC = b"k8s\x00"
INITIAL_END = "k8s.io/initial-events-end"

FIELDS = json.loads(pathlib.Path(__file__).with_name("protobuf-fields.json").read_text("utf-8"))["messages"]
#: Fields behind pointers, which Go writes only if they are set. All others are always written.
POINTERS = {
    "authentication.v1.TokenRequestSpec": {"boundObjectRef", "expirationSeconds"},
    "authorization.v1.ResourceAttributes": {"fieldSelector", "labelSelector"},
    "authorization.v1.SelfSubjectAccessReviewSpec": {"resourceAttributes", "nonResourceAttributes"},
    "authorization.v1.SubjectAccessReviewSpec": {"resourceAttributes", "nonResourceAttributes"},
    "certificates.v1.CertificateSigningRequestSpec": {"expirationSeconds"},
    "coordination.v1.LeaseSpec": {
        "holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions", "strategy",
        "preferredHolder",
    },
    "core.v1.ConfigMap": {"immutable"},
    "core.v1.Event": {"series", "related"},
    "core.v1.Secret": {"immutable"},
    "core.v1.ServiceAccount": {"automountServiceAccountToken"},
    "events.v1.Event": {"series", "related"},
    "meta.v1.DeleteOptions": {
        "gracePeriodSeconds", "preconditions", "orphanDependents", "propagationPolicy",
        "ignoreStoreReadErrorWithClusterBreakingPotential",
    },
    "meta.v1.ListMeta": {"remainingItemCount", "shardInfo"},
    "meta.v1.ManagedFieldsEntry": {"time", "fieldsV1"},
    "meta.v1.ObjectMeta": {"deletionTimestamp", "deletionGracePeriodSeconds"},
    "meta.v1.OwnerReference": {"controller", "blockOwnerDeletion"},
    "meta.v1.Preconditions": {"uid", "resourceVersion"},
    "meta.v1.Status": {"details"},
    "rbac.v1.ClusterRole": {"aggregationRule"},
}  # fmt: skip
#: The only field whose protobuf name differs from its JSON name.
RENAMED = {("authentication.v1.BoundObjectReference", "uID"): "uid"}
TIMES = {"meta.v1.Time": "seconds", "meta.v1.MicroTime": "microseconds"}
LISTS = {name for name, fields in FIELDS.items() if list(fields.values()) == [["items", "string", "repeated"]]}
INTEGERS = ("int32", "int64")
VARINT, LENGTH = 0, 2
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Damaged(Exception):
    """Bytes that Kubernetes would not write."""


class Map(dict):
    """A map of the messages, whose keys all count, unlike the zero fields of an object."""


# --- reading ------------------------------------------------------------------------------------------------------


def decode(name, data):
    """A message as JSON. Raises Damaged."""
    if name in TIMES:
        return _time(name, dict(_fields(name, data)))
    if name == "meta.v1.FieldsV1":
        return json.loads(base64.b64decode(dict(_fields(name, data)).get("Raw", "")) or "{}")
    fields = {}
    for field, value in _fields(name, data):
        if isinstance(value, list):
            fields.setdefault(field, []).extend(value)
        elif isinstance(value, Map):
            fields.setdefault(field, Map()).update(value)
        elif field in fields:
            raise Damaged(f"{name}.{field} is there twice")
        else:
            fields[field] = value
    return fields.get("items", []) if name in LISTS else fields


def _fields(name, data):
    """The fields of a message in order; elements of lists and maps as separate fields."""
    for number, wire, raw in items(data):
        if str(number) not in FIELDS[name]:
            raise Damaged(f"{name} has no field {number}")
        field, kind, *flag = FIELDS[name][str(number)]
        field = RENAMED.get((name, field), field)
        if flag == ["map"]:
            pair = {at: _value(kind[at - 1], *field) for at, *field in items(raw)}
            if set(pair) != {1, 2}:
                raise Damaged(f"{name}.{field} has an entry of {set(pair)}")
            yield field, Map([(pair[1], pair[2])])
        elif flag == ["repeated"]:
            yield field, [_value(kind, wire, raw)]
        else:
            value = _value(kind, wire, raw)
            yield field, tuple(value) if isinstance(value, list) else value


def _value(kind, wire, raw):
    if wire != (VARINT if kind in (*INTEGERS, "bool") else LENGTH):
        raise Damaged(f"{kind} has wire type {wire}")
    if kind in INTEGERS:
        value = raw - (1 << 64) if raw >> 63 else raw
        if kind == "int32" and not -(1 << 31) <= value < 1 << 31:
            raise Damaged(f"{value} is no int32")
        return value
    if kind == "bool":
        return bool(raw)
    if kind == "string":
        return raw.decode("utf-8")
    if kind == "bytes":
        return base64.b64encode(raw).decode("ascii")
    return decode(kind, raw)


def _time(name, parts):
    if not parts:
        return None
    if set(parts) != {"seconds", "nanos"}:
        raise Damaged(f"{name} has {sorted(parts)}")
    moment = EPOCH + datetime.timedelta(seconds=parts["seconds"], microseconds=parts["nanos"] // 1000)
    return f"{moment.replace(tzinfo=None).isoformat(timespec=TIMES[name])}Z"


def items(data):
    """Number, wire type and value of each field: an integer, or bytes. Raises Damaged."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value, at = _varint(data, at)
        if wire == LENGTH:
            at, begin = at + value, at
            if at > len(data):
                raise Damaged(f"field {number} goes beyond the end")
            value = bytes(data[begin:at])
        elif wire != VARINT:
            raise Damaged(f"field {number} has wire type {wire}")
        yield number, wire, value


def _varint(data, at):
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise Damaged("the end comes within a number")
        value |= (data[at] & 0x7F) << shift
        at, shift, more = at + 1, shift + 7, data[at] & 0x80
        if not more:
            return value, at
    raise Damaged("a number has more than ten bytes")


# --- writing ------------------------------------------------------------------------------------------------------


def encode(name, value, zeros=True):
    """JSON as a message. `zeros`: unset plain fields are written too, as in Go."""
    if name in TIMES:
        return _encode_time(value)
    if name == "meta.v1.FieldsV1":
        return _field(1, LENGTH, json.dumps(value, separators=(",", ":")).encode())
    if name in LISTS:
        value = {"items": value}
    names = {RENAMED.get((name, field), field): number for number, (field, *_) in FIELDS[name].items()}
    if unknown := set(value) - set(names) - {"kind", "apiVersion"}:
        raise ValueError(f"{name} has no {unknown}")
    encoded = b""
    for field, number in sorted(names.items(), key=lambda item: int(item[1])):
        _, kind, *flag = FIELDS[name][number]
        field_value = value.get(field)
        if flag == ["map"]:
            for key, member in sorted((field_value or {}).items()):
                pair = _field(1, *_bare(kind[0], key, zeros)) + _field(2, *_bare(kind[1], member, zeros))
                encoded += _field(int(number), LENGTH, pair)
        elif flag == ["repeated"]:
            encoded += b"".join(_field(int(number), *_bare(kind, item, zeros)) for item in field_value or ())
        elif field_value is not None:
            encoded += _field(int(number), *_bare(kind, field_value, zeros))
        elif zeros and kind != "bytes" and field not in POINTERS.get(name, ()):
            encoded += _field(int(number), *_bare(kind, _zero(kind), zeros))
    return encoded


def _zero(kind):
    if kind in TIMES:
        return None
    return {"string": "", "bool": False, "int32": 0, "int64": 0}.get(kind, {})


def _bare(kind, value, zeros):
    """The wire type of a value, and its encoding."""
    if kind in (*INTEGERS, "bool"):
        return VARINT, _encode_varint(int(value))
    if kind == "string":
        return LENGTH, value.encode()
    if kind == "bytes":
        return LENGTH, base64.b64decode(value, validate=True)
    return LENGTH, encode(kind, value, zeros)


def _encode_time(text):
    if text is None:
        return b""
    since = datetime.datetime.fromisoformat(text) - EPOCH
    seconds, rest = divmod(since, datetime.timedelta(seconds=1))
    return _field(1, VARINT, _encode_varint(seconds)) + _field(2, VARINT, _encode_varint(rest.microseconds * 1000))


def _field(number, wire, raw):
    size = _encode_varint(len(raw)) if wire == LENGTH else b""
    return _encode_varint(number << 3 | wire) + size + raw


def _encode_varint(value):
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# --- envelopes ----------------------------------------------------------------------------------------------------


def message(api_version, kind):
    """The message of a kind: of its group, or the one shared by all groups."""
    group, _, version = api_version.rpartition("/")
    full_name = f"{group.partition('.')[0] or 'core'}.{version}.{kind}"
    return full_name if full_name in FIELDS else f"meta.v1.{kind}"


def wrap(obj, zeros=True):
    """An object as a body."""
    head = encode("runtime.TypeMeta", {"apiVersion": obj["apiVersion"], "kind": obj["kind"]})
    raw = encode(message(obj["apiVersion"], obj["kind"]), obj, zeros)
    return MAGIC + _field(1, LENGTH, head) + _field(2, LENGTH, raw) + _field(3, LENGTH, b"") + _field(4, LENGTH, b"")


def unwrap(body):
    """The object in a body. Raises Damaged."""
    if not body.startswith(MAGIC):
        raise Damaged(f"a body begins with {body[:4]!r}")
    fields = {number: value for number, _, value in items(body[4:])}
    if set(fields) != {1, 2, 3, 4} or fields[3] or fields[4]:
        raise Damaged(f"an envelope has {fields}")
    head = decode("runtime.TypeMeta", fields[1])
    return {**head, **decode(message(head["apiVersion"], head["kind"]), fields[2])}


def differences(read, shown, at="$"):
    """Paths at which an object read as protobuf differs from the JSON; fields missing in JSON are zero."""
    if isinstance(read, dict) and isinstance(shown, dict):
        paths = []
        for key in sorted({*read, *shown}):
            where = f"{at}.{key}"
            if key not in shown:
                paths += [where] if isinstance(read, Map) or not _is_nothing(read[key]) else []
            elif key not in read:
                paths += [where] if shown[key] not in (None, {}, []) else []
            else:
                paths += differences(read[key], shown[key], where)
        return paths
    if isinstance(read, list | tuple) and isinstance(shown, list) and len(read) == len(shown):
        pairs = enumerate(zip(read, shown, strict=True))
        return [path for number, (left, right) in pairs for path in differences(left, right, f"{at}[{number}]")]
    same = read == shown and isinstance(read, bool) == isinstance(shown, bool)
    return [] if same or (_is_nothing(read) and shown is None) else [f"{at}: {read!r}, {shown!r}"]


def _is_nothing(value):
    return all(map(_is_nothing, value.values())) if isinstance(value, dict) else not value


# --- requests -----------------------------------------------------------------------------------------------------


class Answer:
    """A response; `obj` is its content, from protobuf or JSON."""

    def __init__(self, status):
        self.status, self.headers, self.raw = status.status, status.headers, status.data
        if self.headers.get("content-encoding") == ["gzip"]:
            self.raw = gzip.decompress(self.raw)
        [self.type] = self.headers["content-type"]
        self.obj = unwrap(self.raw) if self.type == PROTOBUF else json.loads(self.raw)


class Client:
    """client-go's REST client for one user. `wire` has the certificates and does the HTTP."""

    def __init__(self, wire, user="admin", agent=AGENT):
        self.wire, self.user = wire, user
        self._head = {"User-Agent": agent, "Accept-Encoding": "gzip"}

    def ask(self, method, path, obj=None, accept=ACCEPT, **query):
        """One request; an object is sent as protobuf."""
        body, head = None, {**self._head, "Accept": accept}
        if obj is not None:
            body, head["Content-Type"] = wrap(obj), PROTOBUF
        return Answer(self.wire.request(self.user, method, with_query(path, query), head, body))

    def in_json(self, method, path, obj=None, **query):
        """The same request with JSON."""
        body, head = None, {**self._head, "Accept": "application/json"}
        if obj is not None:
            body, head["Content-Type"] = json.dumps(obj).encode(), "application/json"
        return Answer(self.wire.request(self.user, method, with_query(path, query), head, body))

    def watch(self, path, accept=ACCEPT, **query):
        """An open watch; raises Refused."""
        connection = self.wire.connect(self.user)
        try:
            head = {**self._head, "Accept": accept}
            self.wire.send(connection, self.user, "GET", with_query(path, {**query, "watch": "true"}), head, None)
            answer = connection.getresponse()
            if answer.status != 200:
                raise Refused(answer.status, unwrap(answer.read()))
            if answer.getheader("Content-Type") != STREAM:
                raise Damaged(f"a watch has the type {answer.getheader('Content-Type')}")
        except BaseException:
            connection.close()
            raise
        return Watch(connection, answer)


def with_query(path, query):
    """A path with its parameters, sorted as Go sorts them."""
    return f"{path}?{urllib.parse.urlencode(sorted(query.items()))}" if query else path


class Refused(Exception):
    """A watch that was refused."""

    def __init__(self, code, status):
        super().__init__(code, status)
        self.code, self.status = code, status


Event = collections.namedtuple("Event", ("type", "object"))


class Watch:
    """A stream of frames: four bytes of length, and an event without an envelope, whose object has one."""

    def __init__(self, connection, answer):
        self._connection, self._answer = connection, answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._answer.close()
        self._connection.close()

    def next(self):
        """The next event; None at the end of the stream. Raises Damaged, and TimeoutError if nothing comes."""
        head = self._answer.read(4)
        if not head:
            return None
        size = int.from_bytes(head, "big")
        frame = self._answer.read(size)
        if len(head) != 4 or len(frame) != size:
            raise Damaged("the end comes within a frame")
        fields = {number: value for number, _, value in items(frame)}
        if set(fields) != {1, 2}:
            raise Damaged(f"an event has {fields}")
        [(number, _, raw)] = items(fields[2])
        if number != 1:
            raise Damaged(f"the object of an event is in field {number}")
        return Event(fields[1].decode(), unwrap(raw))

    def rest(self):
        """All events to the end of the stream."""
        return list(iter(self.next, None))


# --- informer -----------------------------------------------------------------------------------------------------


class Informer:
    """A copy of the server's objects, kept up to date: client-go's reflector and its store.

    `asked` lists the requests: "stream" for a watch with initial events, "list", "watch".
    """

    FIRST = {"resourceVersionMatch": "NotOlderThan", "sendInitialEvents": "true"}  # noqa: RUF012 - never changed

    def __init__(self, client, path, first=FIRST, seconds=None):
        self._client, self._path, self._first = client, path, first
        self._seconds = seconds
        self._watch = None
        self._replacing = None
        self.revision, self.known, self.asked = "", {}, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def start(self):
        """Connect to the server, if that has not been done yet."""
        if self._watch is None:
            self._begin()

    def step(self):
        """The next event, applied to the store; reconnects as often as needed."""
        while True:
            self.start()
            event = self._watch.next()
            if event is None:
                self.close()
            elif event.type == "ERROR":
                self.close()
                if event.object["code"] != 410:
                    raise Refused(event.object["code"], event.object)
                self.revision = ""
                return event
            else:
                self._take(event)
                return event

    def until(self, condition):
        """Steps until the store fulfils a condition; the events on the way."""
        events = []
        while not condition(self.known):
            events.append(self.step())
        return events

    def _begin(self):
        if not self.revision:
            with contextlib.suppress(Refused):
                self._open("stream", **self._first)
                self._replacing = {}
                return
            self._list()
        self._open("watch", resourceVersion=self.revision)

    def _open(self, verb, **query):
        self.asked.append(verb)
        seconds = self._seconds or random.randint(300, 600)  # as client-go spreads them
        times = {"timeout": f"{seconds // 60}m{seconds % 60}s", "timeoutSeconds": seconds}
        self._watch = self._client.watch(self._path, **query, **times, allowWatchBookmarks="true")

    def _list(self):
        self.asked.append("list")
        objects, query = {}, {"resourceVersion": "0"}
        while True:
            answer = self._client.ask("GET", self._path, limit=500, **query)
            if answer.status != 200:
                raise Refused(answer.status, answer.obj)
            objects |= {_key(obj): obj for obj in answer.obj.get("items", ())}
            if not answer.obj["metadata"]["continue"]:
                break
            query = {"continue": answer.obj["metadata"]["continue"]}
        self.known, self.revision = objects, answer.obj["metadata"]["resourceVersion"]

    def _take(self, event):
        into = self.known if self._replacing is None else self._replacing
        meta = event.object["metadata"]
        if event.type == "DELETED":
            into.pop(_key(event.object), None)
        elif event.type != "BOOKMARK":
            into[_key(event.object)] = event.object
        elif self._replacing is not None and meta.get("annotations", {}).get(INITIAL_END) == "true":
            self.known, self._replacing = self._replacing, None
        if self._replacing is None:
            self.revision = meta["resourceVersion"]


def _key(obj):
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
