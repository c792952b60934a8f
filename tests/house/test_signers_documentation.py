"""docs/signers.md says what a declaration may say."""

from __future__ import annotations

import pathlib
import re

import msgspec

from certplane.controllers import signerfile

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "signers.md").read_text("utf-8")
_PARTS = {
    "authority": signerfile.Authority,
    "usages": signerfile.Usages,
    "subject": signerfile.Subject,
    "names": signerfile.Names,
    "lifetime": signerfile.Lifetime,
}


def test_the_example_can_be_used():
    """As it stands."""
    example = re.search(r"```yaml\n(apiVersion.*?)```", TEXT, re.DOTALL)
    assert len(signerfile.parse(example[1].encode()).signers) == 3


def test_every_field_is_explained():
    """Each has its line in the table, and the table has no others."""
    wanted = {f"{part}.{each.encode_name}" for part, of in _PARTS.items() for each in msgspec.structs.fields(of)}
    wanted |= {each.encode_name for each in msgspec.structs.fields(signerfile.Signer)} - set(_PARTS)
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    assert {name for row in rows for name in re.findall("`([^`]+)`", row)} == wanted
