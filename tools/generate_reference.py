"""Generate docs/reference.md from the program: `make generate`. A test holds that it is current."""

from __future__ import annotations

import pathlib
import sys

from certplane import config, resources

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

MIDDLE = """
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
| `store.sqlite` | the store: SQLite, one writer |

Files that are there already are used as they are.

### Exit codes

| code | meaning |
|--:|---|
| 0 | done; also after SIGTERM and SIGINT |
| 1 | a fault of the program's; the log has a traceback |
| 2 | something that a person must mend: `error:` says what, `hint:` what to do |
| 130 | interrupted before it began |

### Health and metrics

`/livez`, `/readyz`, `/healthz` (`?verbose`, `?exclude=CHECK`, `/readyz/CHECK`), `/version`, `/metrics`. Checks are
`ping`, `log`, `etcd` (the store, under the name that probes know), `informer-sync`, `shutdown`, and one `signer-NAME`
for each signer, which reports without making the server unready.

| metric | meaning |
|---|---|
| `apiserver_request_total`, `apiserver_request_duration_seconds` | requests, by verb, resource and code |
| `certplane_signer_ready` | 1 if a signer has an authority, else 0 with the reason |
| `certplane_csr_decisions_total` | what controllers decided, by signer, decision and reason |
| `workqueue_*` | the controllers' queue, under the names of client-go |

## What is served

| group and version | kind | resource | short | subresources | verbs |
|---|---|---|---|---|---|
"""


def reference() -> str:
    """The whole page."""
    settings = "".join(
        f"| `--{each.name}` | {_default(each)} | {each.help.replace('|', '&#124;')} |\n" for each in config.OPTIONS
    )
    kinds = "".join(
        f"| {each.api_version} | {each.kind} | {each.plural} | {', '.join(each.short_names)} "
        f"| {', '.join(door.name for door in each.subresources)} | {', '.join(each.verbs)} |\n"
        for each in resources.ALL
    )
    actions = "".join(
        f"| {each.api_version} | {each.kind} | {each.plural} |  |  | create |\n" for each in resources.ACTIONS
    )
    controllers = "".join(f"- `{name}` (also `{alias}`)\n" for name, alias in config.CONTROLLERS.items())
    return HEAD + settings + "\nControllers:\n\n" + controllers + MIDDLE + kinds + actions


def _default(of: config.Option) -> str:
    if of.default in (None, "", ()):
        return ""
    value = ",".join(of.default) if of.kind == "names" else of.default
    return f"`{str(value).lower() if of.kind == 'flag' else value}`"


if __name__ == "__main__":
    (pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_text(reference(), "utf-8")
