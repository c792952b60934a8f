"""The metrics of certificates: the schema, limits of labels, and the compressed page."""

from __future__ import annotations

import gzip
import zlib

import hypothesis
import prometheus_client.parser
from hypothesis import strategies

from certplane.expiry import exposition
from certplane.expiry.findings import Finding
from tests.unit.expiry import material

NOW = float(material.seconds(material.NOW))


def text_of(*snapshots, head=b""):
    page = exposition.page(head, snapshots)
    text = b"".join(page.parts)
    assert text == gzip.decompress(page.gzipped)
    # Not only in Python: as one stream without a rest.
    decompressor = zlib.decompressobj(31)
    assert text == decompressor.decompress(page.gzipped)
    assert decompressor.eof
    assert b"" == decompressor.unused_data
    return text.decode()


def samples(text):
    families = prometheus_client.parser.text_string_to_metric_families(text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def values(text, name):
    return [value for (sample, _), value in samples(text).items() if sample == name]


def test_the_schema():
    """Names and labels, with absolute times."""
    text = text_of(exposition.render("disk", [material.finding(10)], NOW))
    labels = (
        ("filepath", "/a.pem"),
        ("issuer_CN", "Example CA"),
        ("serial_number", "a"),
        ("source", "disk"),
        ("subject_CN", "name-10"),
    )
    assert {
        ("x509_cert_not_after", labels): NOW + 90 * 86400,
        ("x509_cert_not_before", labels): NOW,
        ("x509_cert_expired", labels): 0,
    } == samples(text)


def test_problems():
    """One series for each place."""
    text = text_of(exposition.render("disk", [material.problem(), material.problem("another")], NOW))
    assert {("x509_cert_error", (("filepath", "/b.pem"), ("source", "disk"))): 1} == samples(text)


def test_revocation_lists():
    """When the next one is due, and whether it is overdue."""
    found = [
        Finding("/a.crl", "", (("filepath", f"/{name}.crl"),), item, is_revocation_list=True)
        for name, item in (("a", material.finding(end=material.NOW).item), ("b", material.finding().item))
    ]
    text = text_of(exposition.render("disk", found, NOW + 1))
    assert [NOW, NOW + 90 * 86400] == values(text, "x509_crl_next_update")
    assert [1, 0] == values(text, "x509_crl_stale")


def test_expired_changes_with_time():
    """Without a new reading, and only then is anything rendered again."""
    found = [material.finding(number, material.NOW + number * material.DAY) for number in (1, 2)]
    snapshot = exposition.render("disk", found, NOW)
    assert NOW + 86401 == snapshot.next_change
    assert exposition.refresh(snapshot, NOW + 86400) is snapshot
    later = exposition.refresh(snapshot, NOW + 86401)
    assert [1, 0] == values(text_of(later), "x509_cert_expired")
    assert later.families[exposition.NOT_AFTER] is snapshot.families[exposition.NOT_AFTER]
    last = exposition.refresh(later, NOW + 3 * 86400)
    assert [1, 1] == values(text_of(last), "x509_cert_expired")
    assert float("inf") == last.next_change


def test_unchanged_parts_are_not_compressed_again():
    """The same findings again."""
    snapshot = exposition.render("disk", [material.finding()], NOW)
    again = exposition.render("disk", [material.finding()], NOW, snapshot)
    assert all(again.families[name] is part for name, part in snapshot.families.items())


def test_equal_labels_are_one_series():
    """A duplicate series would make Prometheus refuse the whole page. What ends first counts."""
    found = [material.finding(1, material.NOW + days * material.DAY) for days in (9, 3, 5)]
    assert [NOW + 3 * 86400] == values(text_of(exposition.render("disk", found, NOW)), "x509_cert_not_after")


def test_long_values_are_cut_and_stay_different():
    """Whoever made a certificate chose its names, and even its serial number."""
    found = [material.finding(1, subject="a" * 100_000 + end, serial="f" * 50_000) for end in "xy"]
    text = text_of(exposition.render("disk", found, NOW))
    assert 2 == len(values(text, "x509_cert_not_after"))
    assert len(text) < 3000


@hypothesis.given(strategies.lists(strategies.tuples(strategies.text(), strategies.text()), max_size=5))
def test_any_text_is_a_label(names):
    """The page stays readable, whatever is in a name."""
    found = [material.finding(subject=subject, path=path) for subject, path in names]
    text = text_of(exposition.render("disk", found, NOW))
    assert len({(item.item.subject, item.path) for item in found}) >= len(values(text, "x509_cert_not_after"))


def test_families_of_several_sources_are_in_one_piece():
    """As the format requires."""
    first, second = (exposition.render(name, [material.finding()], NOW) for name in ("one", "two"))
    text = text_of(first, second, head=b"# TYPE up gauge\nup{} 1\n")
    names = [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]
    assert ["up", *(name for name in exposition.FAMILIES if name in names for _ in range(2))] == names
