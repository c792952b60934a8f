"""Read the configuration of the expiry watch, and report all problems at once, each with the path of its field."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from certplane import files
from certplane.client import starttls
from certplane.config import documents, options
from certplane.config.documents import DocumentKind, Fields, quote
from certplane.expiry import settings
from certplane.expiry.settings import EndpointSettings, Place, SourceSettings, WatchSettings, WebhookSettings
from certplane.expiry.watch import Limits
from certplane.kubeadm import layout
from certplane.meta import names

_DOCUMENT: Final = DocumentKind(settings.API_VERSION, settings.KIND, "certplane watch check", "docs/watch.md")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS: Final = ("json", "slack")
_YEAR: Final = 366 * settings.DAY
MAX_CERTIFICATES: Final = 1_000_000
_MAX_FILE: Final = 4 << 20


def load(path: pathlib.Path) -> WatchSettings:
    """The configuration in a file. Relative paths in it are relative to its directory. Raises SetupError, of which
    documents.ConfigurationError has everything that is wrong.
    """
    return documents.read(path, _DOCUMENT, _watch)


def _watch(fields: Fields) -> WatchSettings:
    sources = tuple(_source(item) for item in fields.children("sources"))
    webhooks = tuple(_webhook(item) for item in fields.children("webhooks"))
    if not sources:
        fields.report("sources", "required: at least one")
    has_metrics = fields.flag("metrics", default=True)
    address = fields.address("metricsAddress") or settings.DEFAULT_ADDRESS
    default = settings.DEFAULT_LIMITS
    parsed = WatchSettings(
        sources=sources,
        limits=Limits(
            interval=fields.seconds("interval", default.interval, 1, settings.DAY),
            timeout=fields.seconds("timeout", default.timeout, 1, 3600),
            certificates=int(fields.number("maxCertificates", default.certificates, 1, MAX_CERTIFICATES)),
        ),
        metrics_address=address if has_metrics else None,
        webhooks=webhooks,
        state_directory=fields.file("stateDirectory") or settings.DEFAULT_STATE_DIRECTORY,
        log_level=fields.choice("logLevel", _LEVELS, "INFO"),
    )
    fields.finish()
    known = [source.name for source in sources]
    for kind, taken in (("sources", known), ("webhooks", [webhook.name for webhook in webhooks])):
        for index, name in enumerate(taken):
            if name and name in taken[:index]:
                fields.report(f"{kind}[{index}].name", f"duplicate: {quote(name)}")
    for index, webhook in enumerate(webhooks):
        for name in webhook.sources:
            if name not in known:
                fields.report(f"webhooks[{index}].sources", f"there is no source {quote(name)}")
    return parsed


def _name(fields: Fields) -> str:
    name = fields.text("name", required=True)
    for problem in names.dns1123_label_problems(name) if name else ():
        fields.report("name", f"{quote(name)}: {problem}")
    return name


# --- sources ------------------------------------------------------------------------------------------------------


def _source(fields: Fields) -> SourceSettings:
    name = _name(fields)
    present = [kind for kind in _PLACES if fields.has(kind)]
    if len(present) != 1:
        fields.report("", f"needs exactly one of {', '.join(_PLACES)}")
    place: Place = settings.Directory(pathlib.Path())
    for kind, read in _PLACES.items():
        child = fields.child(kind)
        if child is not None:
            place = read(child)
            child.finish()
    fields.finish()
    return SourceSettings(name, place)


def _control_plane(fields: Fields) -> Place:
    data_dir = fields.file("dataDir")
    if data_dir is not None and (fields.has("certDir") or fields.has("kubeconfigDir")):
        fields.report("dataDir", "cannot be combined with certDir and kubeconfigDir, which are directories of kubeadm")
    return settings.ControlPlane(
        fields.file("certDir") or layout.CERTIFICATES_DIRECTORY,
        fields.file("kubeconfigDir") or layout.KUBERNETES_DIRECTORY,
        data_dir,
    )


def _directory(fields: Fields) -> Place:
    return settings.Directory(fields.file("path", required=True) or pathlib.Path())


def _files(fields: Fields) -> Place:
    return settings.Files(_patterns(fields), fields.file("pkcs12PasswordFile"))


def _kubeconfigs(fields: Fields) -> Place:
    return settings.Kubeconfigs(_patterns(fields))


def _patterns(fields: Fields) -> tuple[str, ...]:
    patterns = fields.paths("paths")
    if not patterns:
        fields.report("paths", "required: at least one")
    for index, pattern in enumerate(patterns):
        if "**" in pattern:
            # Links may make it endless; `directory` knows which directories it has seen.
            fields.report(f"paths[{index}]", f"{quote(pattern)}: ** is not supported; use directory for a whole tree")
    return patterns


def _cluster(fields: Fields) -> Place:
    secrets = tuple(_secrets(item) for item in fields.children("secrets"))
    if not fields.has("secrets"):
        secrets = (settings.SecretSelection(),)
    place = settings.Cluster(
        kubeconfig=fields.file("kubeconfig"),
        context=fields.text("context"),
        namespaces=fields.texts("namespaces"),
        secrets=secrets,
        config_maps=_config_maps(fields),
        trust_bundles=fields.flag("clusterTrustBundles", default=False),
        csrs=fields.flag("certificateSigningRequests", default=False),
    )
    if place.context and place.kubeconfig is None:
        fields.report("context", "needs a kubeconfig")
    for index, namespace in enumerate(place.namespaces):
        for problem in names.dns1123_label_problems(namespace):
            fields.report(f"namespaces[{index}]", f"{quote(namespace)}: {problem}")
    if not (place.secrets or place.config_maps or place.trust_bundles or place.csrs):
        fields.report("", "reads nothing: name secrets, configMaps, clusterTrustBundles or certificateSigningRequests")
    return place


def _secrets(fields: Fields) -> settings.SecretSelection:
    default = settings.SecretSelection()
    selection = settings.SecretSelection(fields.text("type", default.type), fields.texts("keys") or default.keys)
    fields.finish()
    return selection


def _config_maps(fields: Fields) -> tuple[str, ...]:
    child = fields.child("configMaps")
    if child is None:
        return ()
    keys = child.texts("keys") or ("ca.crt",)
    child.finish()
    return keys


def _endpoints(fields: Fields) -> Place:
    endpoints = tuple(_endpoint(item) for item in fields.children("addresses"))
    if not endpoints:
        fields.report("addresses", "required: at least one")
    return settings.Endpoints(endpoints)


def _endpoint(fields: Fields) -> EndpointSettings:
    if not fields.has("address"):
        fields.report("address", "required")
    endpoint = EndpointSettings(
        fields.address("address") or settings.DEFAULT_ADDRESS,
        fields.text("serverName"),
        fields.choice("startTLS", ("", *starttls.PROTOCOLS), ""),
        fields.file("caFile"),
    )
    fields.finish()
    return endpoint


#: How the place of a source is read, by the field that has it.
_PLACES: Final[Mapping[str, Callable[[Fields], Place]]] = {
    "controlPlane": _control_plane,
    "directory": _directory,
    "files": _files,
    "kubeconfigs": _kubeconfigs,
    "cluster": _cluster,
    "endpoints": _endpoints,
}


# --- webhooks -----------------------------------------------------------------------------------------------------


def _webhook(fields: Fields) -> WebhookSettings:
    webhook = WebhookSettings(
        name=_name(fields),
        url_file=fields.file("urlFile", required=True) or pathlib.Path(),
        format=fields.choice("format", _FORMATS, "json"),
        secret_file=fields.file("secretFile"),
        ca_file=fields.file("caFile"),
        thresholds=_thresholds(fields),
        sources=fields.texts("sources"),
    )
    fields.finish()
    return webhook


def _thresholds(fields: Fields) -> tuple[float, ...]:
    """Seconds, the longest first."""
    thresholds = []
    for index, text in enumerate(fields.texts("thresholds")):
        duration = options.parse_long_duration(text)
        if duration is None or not 0 <= duration.total_seconds() <= 10 * _YEAR:
            fields.report(f"thresholds[{index}]", f"not a duration: {quote(text)}; write it as 30d, 12h or 0s")
        else:
            thresholds.append(duration.total_seconds())
    return tuple(sorted(set(thresholds), reverse=True)) or settings.DEFAULT_THRESHOLDS


# --- files that a configuration names -----------------------------------------------------------------------------


def find_problems(parsed: WatchSettings) -> Iterator[str]:
    """What is wrong with the files that a configuration names. Places that are watched may come and go."""
    for index, source in enumerate(parsed.sources):
        place = source.place
        prefix = f"sources[{index}]"
        if isinstance(place, settings.Files):
            yield from _unreadable(f"{prefix}.files.pkcs12PasswordFile", place.pkcs12_password_file)
        elif isinstance(place, settings.Cluster):
            yield from _unreadable(f"{prefix}.cluster.kubeconfig", place.kubeconfig)
        elif isinstance(place, settings.Endpoints):
            for number, endpoint in enumerate(place.endpoints):
                yield from _unreadable(f"{prefix}.endpoints.addresses[{number}].caFile", endpoint.ca_file)
    for index, webhook in enumerate(parsed.webhooks):
        for name, path in (
            ("urlFile", webhook.url_file),
            ("secretFile", webhook.secret_file),
            ("caFile", webhook.ca_file),
        ):
            yield from _unreadable(f"webhooks[{index}].{name}", path)


def _unreadable(field: str, path: pathlib.Path | None) -> Iterator[str]:
    if path is None:
        return
    try:
        files.read_regular(path, _MAX_FILE)
    except OSError as error:
        yield f"{field}: {path} cannot be read: {files.error_text(error)}"
