"""References in the documentation are valid: pages, headings, files and tests."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "docs/adr/*.md", "deploy/*.md") for path in ROOT.glob(pattern))
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: A path in the repository, perhaps with a test in the file.
FILE = re.compile(r"`((?:src|tests|docs|deploy|tools|bench|requirements)/[\w/.-]+?)(?:::(\w+))?`")
#: A module, by its path below the package.
MODULE = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*\.py)`")


def _name(path):
    return path.relative_to(ROOT).as_posix()


def anchors(text):
    """The names by which links reach the headings, as the usual viewers of Markdown make them; in order."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_link_targets_exist(path):
    """The file, and the heading in it."""
    for link in LINK.findall(path.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_headings_are_unique(path):
    """A link to the second of two equal headings would lead to the first."""
    names = anchors(path.read_text("utf-8"))
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_files_and_tests_that_are_named_exist(path):
    """Including modules of the package, which are named by a relative path."""
    text = path.read_text("utf-8")
    for name, test in FILE.findall(text):
        assert (ROOT / name).exists(), name
        assert not test or f"def {test}(" in (ROOT / name).read_text("utf-8"), f"{name}::{test}"
    for name in MODULE.findall(text):
        assert (ROOT / name).exists() or list((ROOT / "src" / "certplane").glob(f"**/{name}")), name
