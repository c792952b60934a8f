"""Generate docs/reference.md from the program: `make generate`. A test holds that it is current."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from certplane import resources
from certplane.config import controllers as abroad
from certplane.config import crew, options, serve

TARGET = pathlib.Path(__file__).resolve().parent.parent / "docs" / "reference.md"

HEAD = """\
# Reference

Made by `make generate` from the program itself.

## certplane serve

Settings are flags, or lines of the YAML file that `--config` names (without the dashes, `listen: 127.0.0.1:6443`).
Flags win. Names are those of kube-apiserver and kube-controller-manager where they have such a setting.

| setting | default | meaning |
|---|---|---|
"""

ABROAD = """
## certplane controllers

The controllers alone, against the API server of a kubeconfig, or around the pod that they are in. By default the first
three of the list above: the others every cluster has. A controller of a kind that the server does not have is left out.

| setting | default | meaning |
|---|---|---|
"""

MIDDLE = """
### Signers

A signer signs with its own pair of `--cluster-signing-SIGNER-*` files, or with `--cluster-signing-cert-file` and
`-key-file`, or, if nothing at all is said about signing, with the CA of the data directory. Both forms together are
refused. A signer without a usable pair leaves its requests as they are and says why in the log, in `/readyz?verbose`
and in the metric `certplane_signer_ready`.

### Files in the data directory

| file | what it is |
|---|---|
| `pki/ca.crt`, `pki/ca.key` | the CA: signs clients, and servers. A key that others can read is refused |
| `pki/apiserver.crt`, `pki/apiserver.key` | the serving certificate |
| `admin.conf` | kubeconfig of kubernetes-admin, in kubeadm:cluster-admins; what it may do, RBAC says |
| `super-admin.conf` | kubeconfig of kubernetes-super-admin, in system:masters; may do everything |
| `store.sqlite`, `-wal`, `-shm`, `.lock` | the store: SQLite, one writer |
| `audit.log` | who did what; a group may read it |

Files that are there already are used as they are, but for the address in the two kubeconfigs: it follows the one that
the server has, unless you wrote another one there; what you add to them stays. One that is damaged ends the start with
an error, and is left as it is. The certificates in them and the serving certificate are good for a year: to renew one,
move its files away and start again.

At the start, all of these have to be files and no links, of the user that certplane runs as or of root, and closed to
others; the directories, too, may be written to by nobody else. What is not so is refused, with the command that mends
it. Whatever certplane makes is for its own user alone.

Files that flags name may be links, as mounted Secrets are. A key of a CA or of service accounts that others can read
is refused there, too (the group of a pod may read files of root); about the serving key and the token file there is a
line in the log.

### Signals and files that change

| signal | meaning |
|---|---|
| SIGTERM, SIGINT | end: accept nothing more, finish what is under way, exit with 0 |
| SIGHUP | read files again now, and open the audit log anew |

A request whose body has not come a second after SIGTERM is answered with 503.

Read again when they change, within 10 s, and at once on SIGHUP: the serving certificate and its key, the client CA
file, the token file, the files of `--signers` and of the serving approver's inventory. The CA files of signers and the
credentials in a kubeconfig are looked at whenever they are used. What has changed counts when it was the same at two
looks; what cannot be used, such as half a pair, changes nothing, and is told once in the log. All other settings and
files are read at the start alone.

### Exit codes

| code | meaning |
|--:|---|
| 0 | done; also after SIGTERM and SIGINT, whether it had begun or not |
| 1 | a fault of the program's; the log has a traceback |
| 2 | something that a person must mend: `error:` says what, `hint:` what to do; `wait`: the server is not ready |
| 3 | `controllers`: another copy works now; start this one again, it waits for its turn |
| 130 | interrupted (Ctrl-C): a short command, or a long one before it had read anything |

### Health and metrics

`/livez`, `/readyz`, `/healthz` (`?verbose`, `?exclude=CHECK`, `/readyz/CHECK`), `/version`, `/metrics`. Checks are
`ping`, `log`, `etcd` (the store, under the name that probes know: whether it takes writes is tried every five seconds),
`informer-sync`, `shutdown`, `background-overdue` (work that has failed for five minutes), and some that report without
making the server unready: `background` (work that failed and is tried again), `connections` (whether any are accepted),
`audit-log`, `stored-values` and one `signer-NAME` for each signer. Everybody sees which checks fail. Why, with names of
files, `?verbose` tells those who may read `/metrics`, where the same stands: the groups system:monitoring and
system:masters, unless you allow more.

| metric | meaning |
|---|---|
| `certplane_background_failures_total` | how often work in the background failed, and was begun again |
| `certplane_background_late_seconds` | for how long work in the background has not worked |
| `apiserver_request_total`, `apiserver_request_duration_seconds` | requests, by verb, dry run, resource and code |
| `certplane_signer_ready` | 1 if a signer has an authority, else 0 with the reason |
| `certplane_csr_decisions_total` | what controllers decided, by signer, decision and reason |
| `apiserver_current_inflight_requests`, `apiserver_longrunning_requests` | what is under way: requests, and watches |
| `certplane_connections_refused_total` | connections turned away, by reason |
| `apiserver_tls_handshake_errors_total` | handshakes that failed |
| `apiserver_resource_objects` | objects that are stored, by group and resource |
| `apiserver_client_certificate_expiration_seconds` | how long the client certificates of requests are still valid |
| `apiserver_tls_handshake_errors_total` | TLS handshakes that came to nothing |
| `certplane_connections_refused_total` | connections that had no answer, by reason: tls, http, memory, and so on |
| `certplane_client_certificates_refused_total` | client certificates refused, by reason (docs/differences.md) |
| `apiserver_certificates_registry_csr_requested_duration_total` | certificates whose requests asked for a duration |
| `apiserver_certificates_registry_csr_honored_duration_total` | those of them that got about that duration |
| `apiserver_audit_event_total`, `apiserver_audit_level_total` | audit records, and requests by the level of theirs |
| `apiserver_audit_error_total` | audit records that could not be written |
| `apiserver_audit_requests_rejected_total` | 0: no request is refused because it cannot be recorded |
| `certplane_audit_left_out_total` | requests of nobody known that were counted instead of recorded |
| `root_ca_cert_publisher_sync_*`, `clustertrustbundle_publisher_sync_*` | what was published, by code, and how long |
| `certplane_file_reloads_total` | changed files that were read again, by what they are, and the result |
| `workqueue_*` | the controllers' queues, under the names of client-go |
| `process_*`, `python_*` | the process and its interpreter |

### The audit log

One line of JSON (`audit.k8s.io/v1`) for each request, in `audit.log` in the data directory. By default that is who did
what, without bodies, and without health checks, discovery and the reading of controllers; `--audit-policy-file` names
another policy. Bodies of Secrets, of service account tokens and of token reviews are never recorded, whatever the
policy says. The record of an approval has annotations under `certplane.io/`, and so has the one of the certificate.

Strangers cannot push records out. Texts in them are cut. Of requests that nobody known sends and that change nothing,
`--audit-anonymous-rate` are recorded each second, a hundred at once at the most; how many were left out is a record of
its own, each minute, with the annotation `certplane.io/records-left-out`. Successful writes to certificate requests,
and those of which nobody knows whether they succeeded (a code from 500 on), are in `audit-approvals.log` as well, which
has as many former files of its own.

What cannot be written is told in the server's log, in the metrics, by `/readyz?verbose` (`audit-log`), and in the log
itself when it can be written again: a record with `certplane.io/records-lost`, whose two times are those of the gap.

### Starting, and being ready

Whoever starts a server and goes on has three ways to know when it answers. All end when it stops.

- `certplane wait`, for scripts: it returns when `/readyz` says ok, and with an error when the time is over or, with
  `--pid $!`, as soon as the process has ended (its port was taken, a setting is wrong).
- `--ready-file`, for what watches files: it is written when requests are answered, holds the address
  (`https://HOST:PORT`), and is removed when none are taken any more. What a killed process left is removed by the next
  one at its start. The file is locked by the process that serves.
- `NOTIFY_SOCKET`, for systemd: with `Type=notify` a unit is active when requests are answered.
  `deploy/systemd/certplane.service` is such a unit.

## certplane wait

Returns when a server is ready, and prints its address: `[--data-dir DIR | --kubeconfig FILE] [--pid PID]
[--timeout 1m0s]`. The kubeconfig is read again each time, because the first start of the server writes it.

## Completion

The shell completes commands, flags and choices after `eval "$(_CERTPLANE_COMPLETE=bash_source certplane)"`; with
`zsh_source` in zsh, and in fish after `_CERTPLANE_COMPLETE=fish_source certplane | source`.

## certplane token create | list | delete | generate

Bootstrap tokens, as `kubeadm token`: Secrets in kube-system, with a lifetime, usages and groups. `--kubeconfig` says
where the server is and who you are.

## certplane audit approvals

Who approved or denied what, when, and which serial number came out: `[--log FILE] [--since 24h] [-o table|json]`.
Reads the log, the approvals beside it, and the rotated files of both.

## Limits

A request may have so much; more is refused with the code, once and by number. Those marked with * Kubernetes has, too.
Nobody is known to need more.

| what | limit | beyond it |
|---|---|---|
| body * | 3 MiB | 413 |
| head of a request *; its fields; its trailers | 1 MiB; 1,000; 1,000 | 431; 431; 400 |
| connections | 65,536, or as many as file descriptors allow | the newest is closed |
| TLS handshakes under way | 2,048 | the oldest is closed |
| unread bytes of all clients together | 64 MiB | the connection that goes beyond is closed |
| seconds for a head *; between requests *; in which nothing of an answer is read | 32; 180; 30 | it is closed |
| certificates that a client sends, its own among them; bytes of these | 16; 64 KiB | 401 |
| signatures that are checked for one chain of certificates * | 100 | 401 |
| values in a YAML document; levels; aliases | 100,000; 256; 1,000 | 400 |
| levels of a patch, and of a field set | 256 | 400 |
| JSON patch: operations *; bytes copied *; list items shifted | 10,000; 3 MiB; 10,000,000 | 413; 422; 413 |
| a request's target: path and query | 64 KiB | 414 |
| ranges in `Accept`; parameters of each | 32; 16 | what follows is passed over |
| items of `X-Forwarded-For` | 64 | what follows is passed over |
| requirements of a label or field selector, in a query, a review or an aggregation rule | 100 | 400; 422 in objects |
| selectors of an aggregation rule | 100 | 422 |
| labels, owner references, finalizers of an object; taints of a Node | 1,000 each | 422 |
| `spec.usages` of a CertificateSigningRequest | 100 | 422 |
| `spec.request` of a CertificateSigningRequest | 256 KiB | 422 |
| in PKCS#10 and certificates: names, attributes of a subject, extensions | 2,000 each | 422 |
| arcs of an object identifier (RFC 2578) | 128 | 422 |
| certificates that a client sends, its own among them; bytes of them | 16; 64 KiB | 401 |
| signatures that are checked for one chain of certificates * | 100 | 401 |
| `spec.podCIDRs` of a Node | 100 | 422 |
| steps of a path in `managedFields` | 32 | the entry counts as none |
| permissions that a refused role lists; looks at held rules that a role takes | 1,000; 200,000 | "and more"; 403 |
| `timeoutSeconds` of a watch | 3,600 | the watch ends then |
| things that strict decoding finds, and problems that show a long value each | 100; 10 | not told |

Bodies of more than 32 KiB (8 KiB of YAML) are read and judged in a thread of their own, one after the other, so that
they hold up nobody else.

Answers, records and logs have limits as well; where a text is longer, its middle is left out, and how much that is
stands in its place.

| what | limit |
|---|---|
| a value that a refusal quotes; its message | 4,096 and 8,192 characters |
| causes of a refusal | 100, and 16,384 characters of them all |
| warnings of an answer * | 4,096 characters; each 256 where they are more |
| URI, messages and annotations in an audit record | 2,048 characters each |
| User-Agent; names; all of a user; addresses; causes in it | 1,024; 512; 16,384 characters; 16; 10 |
| lines about refused credentials in the server's log | one a minute for a reason and source, 60 a minute in all |
| a value in a line of the server's log; a traceback | 2,048; 32,768 characters |
| lines about refused credentials; about connections | each one a minute for the same, 60 in all; others are counted |
| `Impersonate-User` and `Impersonate-Uid` | one of each, not empty |

## What is served

| group and version | kind | resource | short | subresources | verbs |
|---|---|---|---|---|---|
"""


OPTIONAL = """
Off unless `--runtime-config` asks for them:

| group and version | kind | resource | short | subresources | turned on by |
|---|---|---|---|---|---|
"""

END = """
Both versions of an optional kind show the same objects, and so do the two forms of Event.

### What is not served

- Everything that runs something: pods, services, workloads, storage, quotas. Roles may name them, and access reviews
  about them are answered. A PodCertificateRequest that a node makes is refused, because no pod is known.
- Custom resources, webhooks and aggregated API servers.
- CBOR, and YAML watches: neither does Kubernetes.
- `certificates.k8s.io/v1alpha1`; the requests of `v1beta1`, which Kubernetes removed in 1.22.
- Secrets of type kubernetes.io/service-account-token are stored and not filled with a token: TokenRequest gives one.
- The garbage collector: owner references are kept and not followed; what is deleted in the foreground, or orphaning,
  waits until somebody removes its finalizer.
- API priority and fairness: one limit for reads, one for writes.
- The authenticating front proxy, OIDC and webhook authentication.
"""


def reference() -> str:
    """The whole page."""
    kinds = "".join(
        f"| {each.api_version} | {each.kind} | {each.plural} | {', '.join(each.short_names)} "
        f"| {', '.join(door.name for door in each.subresources)} | {', '.join(each.verbs)} |\n"
        for each in resources.DEFAULT
    )
    optional = "".join(
        f"| {each.api_version} | {each.kind} | {each.plural} |  "
        f"| {', '.join(door.name for door in each.subresources)} | `{each.api_version}/{each.plural}=true` |\n"
        for each in resources.OPTIONAL
    )
    actions = "".join(
        f"| {each.api_version} | {each.kind} | {'/'.join(part for part in each.path[2:] if part)} |  |  | create |\n"
        for each in resources.ACTIONS
    )
    controllers = "".join(
        f"- `{name}`" + (f" (also `{alias}`)\n" if alias else "\n") for name, alias in crew.CONTROLLERS.items()
    )
    return (
        HEAD
        + _table(serve.OPTIONS)
        + "\nControllers:\n\n"
        + controllers
        + ABROAD
        + _table(abroad.OPTIONS)
        + MIDDLE
        + kinds
        + actions
        + OPTIONAL
        + optional
        + END
    )


def _table(of: Sequence[options.Option]) -> str:
    return "".join(f"| `--{each.name}` | {_default(each)} | {each.help.replace('|', '&#124;')} |\n" for each in of)


def _default(of: options.Option) -> str:
    if of.default in (None, "", ()):
        return ""
    value = ",".join(of.default) if of.kind == "names" else of.default
    return f"`{str(value).lower() if of.kind == 'flag' else value}`"


if __name__ == "__main__":
    (pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_text(reference(), "utf-8")
