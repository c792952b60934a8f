"""Sends the requests of a recorded case to a server, and compares the responses with the recorded ones."""

from __future__ import annotations

import base64
import contextlib
import copy
import http.client
import json
import re
import time
import urllib.parse

import yaml

from tests.conformance import values, wire

RECORDED_HEADERS = (
    "content-type",
    "warning",
    "audit-id",
    "cache-control",
    "x-content-type-options",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
    "www-authenticate",
    "retry-after",
    "allow",
    "location",
    "etag",
    "last-modified",
    "vary",
    "deprecation",
    "accept-patch",
    "content-encoding",
)
PRESENCE_ONLY = {
    "audit-id",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
    "etag",
    "last-modified",
}
REVIEW_KINDS = ("Review", "TokenRequest", "Status", "Table", "List", "Eviction")


def body_bytes(step, results):
    if "bodyText" in step:
        return values.substitute(step["bodyText"], results).encode()
    if "bodyBase64" in step:
        return base64.b64decode(step["bodyBase64"])
    if "bodyFill" in step:
        f = step["bodyFill"]
        return (f.get("prefix", "") + f["text"] * f["count"] + f.get("suffix", "")).encode()
    if "body" in step:
        return json.dumps(values.substitute(step["body"], results), separators=(",", ":")).encode()
    return None


def condition_holds(doc, conds):
    """Whether a document fulfils all conditions of a polled step."""
    for c in conds:
        got = values.walk(doc, c["path"])
        if "equals" in c and got != c["equals"]:
            return False
        if c.get("exists") and got in (None, "", [], {}):
            return False
        if c.get("absent") and got not in (None, "", [], {}):
            return False
        if "atLeast" in c and not (isinstance(got, int) and got >= c["atLeast"]):
            return False
    return True


def parse(resp_data, ctype):
    if resp_data in (b"", None):
        return None
    base = (ctype or "").split(";")[0].strip()
    if base.endswith("json"):
        try:
            return json.loads(resp_data)
        except ValueError:
            pass
        docs = []
        dec, txt, i = json.JSONDecoder(), resp_data.decode(errors="replace"), 0
        try:
            while i < len(txt):
                while i < len(txt) and txt[i].isspace():
                    i += 1
                if i >= len(txt):
                    break
                d, i = dec.raw_decode(txt, i)
                docs.append(d)
            return {"events": docs}
        except ValueError:
            return {"<unparsed>": txt}
    if base.endswith("yaml"):

        class Loader(yaml.SafeLoader):
            pass

        Loader.yaml_implicit_resolvers = {
            k: [x for x in v if x[0] != "tag:yaml.org,2002:timestamp"]
            for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        return {"<yaml>": yaml.load(resp_data, Loader)}
    if base.startswith("text/"):
        if resp_data[:1] == b"{":  # the OpenAPI v3 index is JSON labelled text/plain
            try:
                return json.loads(resp_data)
            except ValueError:
                pass
        return resp_data.decode(errors="replace")
    return {"<opaque>": base}


class Player:
    """Plays cases against one server. `timeout` is for a response, `patience` limits a polled step, both in seconds."""

    def __init__(self, server, ids, timeout=30, patience=None):
        self.server, self.ids = server, ids
        self.client = wire.Client(server, ids, timeout)
        self.patience = patience

    def close(self):
        self.client.close()

    def object_path(self, req_path, method, status, doc, body):
        """Path of an object that a step created, for the teardown."""
        base = req_path.split("?")[0].rstrip("/")
        if isinstance(doc, dict) and "<yaml>" in doc:
            doc = doc["<yaml>"]
        if "dryRun" in req_path or not isinstance(doc, dict):
            return None
        kind = str(doc.get("kind", ""))
        if kind == "Table" and method == "POST" and status == 201:
            # The object is in its only row.
            doc = values.walk(doc, "rows[0].object")
            kind = ""
        if any(kind.endswith(k) for k in REVIEW_KINDS):
            return None
        if method == "POST" and status == 201:
            name = values.walk(doc, "metadata.name")
            if base.endswith("/token") or not name:
                return None
            return base + "/" + urllib.parse.quote(str(name), safe=":")
        if method in ("PUT", "PATCH") and status == 201:
            return base
        return None

    def cleanup(self, paths):
        """Delete objects, also those with finalizers. Errors of the connection are ignored: the case has its result."""
        for p in paths:
            with contextlib.suppress(OSError, http.client.HTTPException):
                r = self.client.request("admin", "DELETE", p, {"Accept": "application/json"}, None)
                if r.status == 200 and b'"finalizers"' in r.data:
                    self.client.request(
                        "admin",
                        "PATCH",
                        p,
                        {"Content-Type": "application/merge-patch+json"},
                        b'{"metadata":{"finalizers":null}}',
                    )
                if r.status == 200 and re.fullmatch("/api/v1/namespaces/[^/]+", p):
                    end = time.monotonic() + 20  # namespaces are deleted asynchronously
                    while time.monotonic() < end:
                        if self.client.request("admin", "GET", p, {}, None).status == 404:
                            break
                        time.sleep(0.1)

    def precleanup(self, case):
        """Delete the objects that an interrupted run of this case may have left."""
        out = []
        for s in case["steps"]:
            p = s.get("path", "").split("?")[0].rstrip("/")
            b = s.get("body")
            if s.get("method") == "POST" and isinstance(b, dict) and isinstance(b.get("metadata"), dict):
                n = b["metadata"].get("name")
                if isinstance(n, str) and n and "$" not in n and "$" not in p and "/" not in n:
                    out.append(p + "/" + urllib.parse.quote(n, safe=":"))
            elif s.get("method") in ("PUT", "PATCH") and "$" not in p and re.search(r"/conf-[^/]*$", p):
                out.append(p)
        for p in dict.fromkeys(out):
            last = p.rsplit("/", 1)[-1]
            if last.startswith(("conf-", "bootstrap-token-")):
                self.cleanup([p])

    def play(self, case):
        """The responses to the steps of a case, in the form in which they are recorded."""
        inputs = json.dumps([{k: v for k, v in s.items() if k != "expect"} for s in case["steps"]])
        ctx = values.Context(self.server, self.ids.ca_cert, inputs)
        results, out, created, streams = {}, [], [], {}
        self.precleanup(case)
        try:
            for i, step in enumerate(case["steps"]):
                sid = step.get("id") or f"s{i + 1}"
                try:
                    out.append(self.step(step, sid, results, ctx, created, streams))
                except (OSError, http.client.HTTPException) as e:
                    out.append({"error": f"{type(e).__name__}: {e}"})
        finally:
            for s in streams.values():
                s.wait(0, 0)
            self.cleanup([values.substitute(p, results) for p in case.get("teardown", [])])
            self.cleanup(list(dict.fromkeys(reversed(created))))
        return out

    def step(self, step, sid, results, ctx, created, streams):
        """Send the request of one step. It is repeated until the condition in `until` holds, or the time is over."""
        if step.get("sleep"):
            time.sleep(step["sleep"])
        if step.get("collect"):
            st = streams[step["collect"]]
            data = st.wait(step.get("events"), step.get("seconds", 10))
            resp = wire.Response(st.status, st.headers, data)
            return self.present(step, sid, resp, results, ctx)
        user = step.get("user", "admin")
        path = values.substitute(step["path"], results)
        method = step["method"]
        headers = {}
        body = body_bytes(step, results)
        sent = {k.lower() for k in step.get("headers", {})}
        if "accept" not in sent:
            headers["Accept"] = "application/json"
        if body is not None and "content-type" not in sent:
            headers["Content-Type"] = "application/json"
        for k, v in step.get("headers", {}).items():
            if v is not None:
                headers[k] = values.substitute(v, results)
        if step.get("open"):
            st = self.client.stream(user, method, path, headers, body, step.get("seconds", 20))
            streams[sid] = st
            time.sleep(step.get("settle", 0.2))
            return {"status": st.status}
        if step.get("watch"):
            w = step["watch"]
            st = self.client.stream(user, method, path, headers, body, w.get("seconds", 10), w.get("events"))
            data = st.wait(w.get("events"), w.get("seconds", 10))
            resp = wire.Response(st.status, st.headers, data)
        else:
            limit = step.get("timeout", 15)
            deadline = time.monotonic() + (limit if self.patience is None else min(limit, self.patience))
            while True:
                resp = self.client.request(user, method, path, headers, body)
                if not step.get("until"):
                    break
                doc = parse(resp.data, (resp.headers.get("content-type") or [""])[0])
                want = step.get("untilStatus")
                if condition_holds(doc, step["until"]) and (want is None or want == resp.status):
                    break
                if time.monotonic() > deadline:
                    break
                time.sleep(step.get("interval", 0.15))
        got = self.present(step, sid, resp, results, ctx)
        doc = results.get(sid)
        p = self.object_path(path, method, resp.status, doc, body)
        if p:
            created.append(p)
        return got

    def present(self, step, sid, resp, results, ctx):
        """A response in the form in which it is recorded."""
        ctype = (resp.headers.get("content-type") or [""])[0]
        doc = parse(resp.data, ctype)
        if step.get("watch") or step.get("collect"):
            if isinstance(doc, dict) and "type" in doc and "object" in doc:
                doc = {"events": [doc]}
            elif doc is None:
                doc = {"events": []}
        results[sid] = doc
        ctx.learn(doc)
        out = {"status": resp.status, "headers": {}}
        for h in RECORDED_HEADERS:
            if h in resp.headers:
                vals = resp.headers[h]
                if h in PRESENCE_ONLY:
                    out["headers"][h] = "<present>"
                else:
                    vals = [values.normalise_text(v, ctx) for v in vals]
                    out["headers"][h] = vals[0] if len(vals) == 1 else vals
        if step.get("until") is not None:
            out["untilHeld"] = condition_holds(doc, step["until"])
        keep = step.get("keep", "body")
        if keep == "status":
            out["headers"] = {k: v for k, v in out["headers"].items() if k == "content-type"}
        elif keep == "code":
            out.pop("headers")
        elif keep == "shape":
            out["shape"] = values.shape(doc, step.get("depth", 3))
        elif keep == "text":
            out["text"] = values.normalise_text(resp.data.decode(errors="replace"), ctx)
        elif keep == "sha":
            out["present"] = bool(resp.data)
        else:
            ctx.columns = None
            body = values.prune(values.normalise(copy.deepcopy(doc), ctx), step)
            if body is not None:
                out["body"] = body
            elif resp.data == b"":
                out["empty"] = True
        return out


# --- differences ---


def diff(want, got, path=""):
    """Differences between a recorded and an actual value: (path, recorded, actual). `<any>` matches everything."""
    if isinstance(want, str) and want == "<any>":
        return []
    if type(want) is not type(got):
        return [(path, want, got)]
    if isinstance(want, dict):
        out = []
        for k in sorted(set(want) | set(got)):
            p = path + "/" + k
            if k not in got:
                if want[k] != "<any>":
                    out.append((p, want[k], "<absent>"))
            elif k not in want:
                out.append((p, "<absent>", got[k]))
            else:
                out += diff(want[k], got[k], p)
        return out
    if isinstance(want, list):
        out = []
        for i in range(max(len(want), len(got))):
            p = f"{path}/{i}"
            if i >= len(got):
                out.append((p, want[i], "<absent>"))
            elif i >= len(want):
                out.append((p, "<absent>", got[i]))
            else:
                out += diff(want[i], got[i], p)
        return out
    return [] if want == got else [(path, want, got)]
