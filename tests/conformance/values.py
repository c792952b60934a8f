"""The parts of a response that are compared: paths into documents, facts of certificates and tokens, and placeholders
for values that may differ between two servers. Only `normalise` replaces values.
"""

from __future__ import annotations

import base64
import copy
import datetime
import json
import re
import urllib.parse

from cryptography import x509

# --- paths into documents, and ${...} ---

_TOKEN = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)|\.")


def walk(doc, path):
    """Value of a dotted path; a[0], a[type=Approved], a["key.with.dots"]; '#' = length."""
    cur = doc
    if path in ("", "."):
        return cur
    for m in _TOKEN.finditer(path):
        idx, key = m.group(1), m.group(2)
        if idx is None and key is None:
            continue
        if idx is not None:
            if idx.startswith('"'):
                key, idx = idx.strip('"'), None
            elif "=" in idx:
                k, v = idx.split("=", 1)
                cur = next((x for x in cur or [] if isinstance(x, dict) and str(x.get(k)) == v), None)
                if cur is None:
                    return None
                continue
            else:
                try:
                    cur = cur[int(idx)]
                except (TypeError, IndexError, ValueError, KeyError):
                    return None
                continue
        if key == "#":
            return len(cur) if cur is not None else 0
        if isinstance(cur, dict) and key in cur:
            cur = cur[key]
        else:
            return None
    return cur


_SUBST = re.compile(r"\$\{([^}]+)\}")


def substitute(value, results):
    if isinstance(value, dict):
        return {substitute(k, results): substitute(v, results) for k, v in value.items()}
    if isinstance(value, list):
        return [substitute(v, results) for v in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def look(expr):
        filt = None
        if "|" in expr:
            expr, filt = expr.split("|", 1)
        step, _, path = expr.partition(".")
        doc = results.get(step)
        got = walk(doc, path) if doc is not None else None
        if filt == "quote" and got is not None:
            got = urllib.parse.quote(str(got), safe="")
        elif filt == "plus1" and got is not None:
            got = str(int(got) + 1)
        elif filt == "plus1000000" and got is not None:
            got = str(int(got) + 1000000)
        return got

    whole = _SUBST.fullmatch(value)
    if whole:
        got = look(whole.group(1))
        return copy.deepcopy(got) if got is not None else ""
    return _SUBST.sub(lambda m: "" if look(m.group(1)) is None else str(look(m.group(1))), value)


# --- facts about certificates and tokens ---


def _name(name):
    return ",".join(a.rfc4514_string() for a in name)


def certificate_facts(cert, ca_cert=None):
    """The fields of an issued certificate that are compared."""
    f = {
        "subject": _name(cert.subject),
        "serialBitsOver64": cert.serial_number.bit_length() > 64,
        "version": cert.version.name,
    }
    if ca_cert is not None and cert.issuer == ca_cert.subject:
        f["issuer"] = "<cluster-ca>"
        try:
            cert.verify_directly_issued_by(ca_cert)
            f["signedByClusterCA"] = True
        except Exception:
            f["signedByClusterCA"] = False
    else:
        f["issuer"] = _name(cert.issuer)
    nb, na = cert.not_valid_before_utc, cert.not_valid_after_utc
    f["validitySeconds"] = int((na - nb).total_seconds())
    now = datetime.datetime.now(datetime.UTC)
    back = (now - nb).total_seconds()
    # backdating is 5 minutes in real servers; bucketed so that it is stable
    f["notBeforeBackdatedMinutes"] = round(back / 60.0) if back < 3600 else ">60"
    f["signatureHash"] = cert.signature_hash_algorithm.name if cert.signature_hash_algorithm else None
    key = cert.public_key()
    f["publicKey"] = type(key).__name__.strip("_")
    exts = []
    for e in cert.extensions:
        item = {"oid": e.oid.dotted_string, "name": e.oid._name, "critical": e.critical}
        v = e.value
        if isinstance(v, x509.BasicConstraints):
            item["ca"], item["pathLength"] = v.ca, v.path_length
        elif isinstance(v, x509.KeyUsage):
            names = [
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
            ]
            got = [n for n in names if getattr(v, n)]
            if v.key_agreement:
                got += [n for n in ("encipher_only", "decipher_only") if getattr(v, n)]
            item["usages"] = got
        elif isinstance(v, x509.ExtendedKeyUsage):
            item["usages"] = [o.dotted_string for o in v]
        elif isinstance(v, x509.SubjectAlternativeName):
            item["names"] = [str(type(n).__name__) + ":" + str(n.value) for n in v]
        elif isinstance(v, x509.AuthorityKeyIdentifier):
            item["present"] = True
            if ca_cert is not None:
                try:
                    ski = ca_cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
                    item["equalsCaSKI"] = v.key_identifier == ski
                except x509.ExtensionNotFound:
                    pass
        elif isinstance(v, x509.SubjectKeyIdentifier):
            item["present"] = True
        exts.append(item)
    f["extensions"] = sorted(exts, key=lambda i: i["oid"])
    return f


def _b64url(s):
    return base64.urlsafe_b64decode(s + "=" * (-len(s) % 4))


def jwt_facts(tok):
    head, payload, _sig = tok.split(".")
    h, p = json.loads(_b64url(head)), json.loads(_b64url(payload))
    f = {"header": {k: ("<kid>" if k == "kid" else v) for k, v in h.items()}, "claims": {}}
    for k, v in p.items():
        if k in ("exp", "iat", "nbf"):
            continue
        f["claims"][k] = v
    if "exp" in p and "iat" in p:
        f["lifetimeSeconds"] = p["exp"] - p["iat"]
    return f


# --- the normaliser ---

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
JWT = re.compile(r"^eyJ[\w-]+\.[\w-]+\.[\w-]+$")
TEXT_RULES = [
    (re.compile(r"X509SHA256=[0-9a-f]{64}"), "X509SHA256=<sha256>"),
    (re.compile(r"too old resource version: (\d+) \(\d+\)"), r"too old resource version: \1 (<rv>)"),
    (
        re.compile(r"[Tt]oo large resource version: \d+, current: \d+"),
        "Too large resource version: <rv>, current: <rv>",
    ),
    (re.compile(r"hash=[0-9A-F]{20,}"), "hash=<hash>"),
    (re.compile(r'(resourceVersion: ")[1-9]\d*"'), r'\1<rv>"'),
    (re.compile(r'(\\?"resourceVersion\\?": ?\\?")[1-9]\d*(\\?")'), r"\1<rv>\2"),
    (re.compile(r"\bin [\d.]+(ms|s|µs|ns)\b"), "in <duration>"),
]
AGE_COLUMNS = {"Age", "Last Seen", "First Seen", "Duration"}


class Context:
    """The state of the normaliser for one run of one case."""

    def __init__(self, server, ca_cert, inputs_text):
        self.hosts = [urllib.parse.urlsplit(server).netloc]
        self.ca_cert = ca_cert
        self.inputs = inputs_text  # the case's own requests: literal values there are kept
        self.names = {}  # generated name -> placeholder
        self.prefixes = re.findall(r'"generateName": "([^"]+)"', inputs_text)
        self.columns = None  # column definitions of the last Table seen

    def learn(self, doc):
        if isinstance(doc, dict):
            md = doc.get("metadata")
            if isinstance(md, dict) and md.get("generateName") and md.get("name"):
                g, n = md["generateName"], md["name"]
                if len(n) > 5 and g.startswith(n[:-5]):  # long prefixes are cut before the suffix
                    self.names[n] = n[:-5] + "<suffix>"
            det = doc.get("details")
            if isinstance(det, dict) and isinstance(det.get("name"), str):
                for g in self.prefixes:
                    if re.fullmatch(re.escape(g) + "[a-z0-9]{5}", det["name"]):
                        self.names[det["name"]] = g + "<suffix>"
            for v in doc.values():
                self.learn(v)
        elif isinstance(doc, list):
            for v in doc:
                self.learn(v)


def normalise_text(s, ctx):
    for name, repl in ctx.names.items():
        s = s.replace(name, repl)
    s = UUID.sub(lambda m: m.group(0) if m.group(0) in ctx.inputs else "<uid>", s)
    s = TIME.sub(
        lambda m: (
            m.group(0)
            if m.group(0) in ctx.inputs or m.group(0).startswith("2006-01-02T15:04:05")
            else ("<microtime>" if m.group(1) else "<time>")
        ),
        s,
    )
    for rx, repl in TEXT_RULES:
        s = rx.sub(repl, s)
    for host in ctx.hosts:
        s = s.replace(host, "<server>")
    return s


def normalise(value, ctx, key=None, parent=None):
    """Replace what legitimately differs between two servers by placeholders.

    uid, creationTimestamp, managedFields times and every other RFC 3339 time that is not literally
    part of the case's requests  -> <uid>, <time>, <microtime>
    resourceVersion              -> <rv>      ("" and "0" stay)
    continue                     -> <continue>
    generated names              -> PREFIX<suffix>
    Table cells of age columns   -> <age>
    Table column descriptions    -> <text>  (they differ between servers)
    status.certificate           -> decoded facts (unless the case itself supplied that certificate)
    JSON web tokens              -> decoded header and claims without times
    """
    if isinstance(value, dict):
        if value.get("kind") == "Table":
            value = dict(value)
            if value.get("columnDefinitions"):
                ctx.columns = value["columnDefinitions"]
                value["columnDefinitions"] = [
                    {**c, "description": "<text>"} if isinstance(c, dict) and c.get("description") else c
                    for c in ctx.columns
                ]
            cols = ctx.columns or []
            rows = []
            for r in value.get("rows") or []:
                r = dict(r)
                if "cells" in r:
                    r["cells"] = [
                        "<age>"
                        if i < len(cols) and cols[i].get("name") in AGE_COLUMNS and c not in ("<unknown>", "<invalid>")
                        else c
                        for i, c in enumerate(r["cells"])
                    ]
                rows.append(r)
            if "rows" in value and value["rows"] is not None:
                value["rows"] = rows
        out = {}
        for k, v in value.items():
            nk = normalise_text(k, ctx)
            if k == "resourceVersion" and isinstance(v, str) and v.isdigit() and v != "0":
                out[nk] = "<rv>"
            elif k == "continue" and isinstance(v, str) and v:
                out[nk] = "<continue>"
            elif k == "certificate" and isinstance(v, str) and v and v not in ctx.inputs:
                try:
                    certs = x509.load_pem_x509_certificates(base64.b64decode(v))
                    out[nk] = {"<certificates>": [normalise(certificate_facts(c, ctx.ca_cert), ctx) for c in certs]}
                except Exception as e:
                    out[nk] = f"<undecodable certificate: {type(e).__name__}>"
            elif isinstance(v, str) and JWT.match(v) and v not in ctx.inputs:
                out[nk] = {"<jwt>": normalise(jwt_facts(v), ctx)}
            elif k == "serverAddress":
                out[nk] = "<server>"
            elif k == "ca.crt" and isinstance(v, str) and v.startswith("-----BEGIN CERT"):
                out[nk] = "<ca bundle>"
            elif k == "ca.crt" and isinstance(v, str) and v.startswith("LS0tLS1CRUdJTiBD"):
                out[nk] = "<ca bundle base64>"
            elif k == "kube-ca":
                out[nk] = v
            else:
                out[nk] = normalise(v, ctx, k, value)
        return out
    if isinstance(value, list):
        return [normalise(v, ctx, key, value) for v in value]
    if isinstance(value, str):
        return normalise_text(value, ctx)
    return value


def shape(v, depth=3):
    """Structure without leaf values, for documents too big to keep."""
    if isinstance(v, dict):
        if depth == 0:
            return "<object>"
        return {k: shape(x, depth - 1) for k, x in sorted(v.items())}
    if isinstance(v, list):
        return [shape(v[0], depth - 1)] if v else []
    return f"<{type(v).__name__}>"


def prune(doc, step):
    """Apply the step's `pick` (keep only these paths) and `drop` (remove these paths)."""
    if step.get("pick"):
        return {p: walk(doc, p) for p in step["pick"]}
    for path, name in (step.get("pickByName") or {}).items():
        doc = next((x for x in walk(doc, path) or [] if walk(x, "metadata.name") == name), None)
    for p in step.get("drop", []):
        drop_path(doc, p.split("/"))
    if step.get("sortBy") and isinstance(doc, (dict, list)):
        for path, key in step["sortBy"].items():
            lst = walk(doc, path)
            if isinstance(lst, list):
                lst.sort(key=lambda x: json.dumps(walk(x, key) if key else x, sort_keys=True))
    return doc


def drop_path(doc, parts):
    """a/b/*/c ; '*' stands for every list element or key. A dropped value becomes "<dropped>"."""
    if not parts:
        return
    head, rest = parts[0], parts[1:]
    if isinstance(doc, list):
        targets = range(len(doc)) if head == "*" else ([int(head)] if head.isdigit() and int(head) < len(doc) else [])
    elif isinstance(doc, dict):
        targets = list(doc) if head == "*" else ([head] if head in doc else [])
    else:
        return
    for t in targets:
        if rest:
            drop_path(doc[t], rest)
        else:
            doc[t] = "<dropped>"
