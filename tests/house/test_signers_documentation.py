"""docs/signers.md explains every field of a signer definition."""

from __future__ import annotations

import pathlib
import re

import msgspec

from certplane.controllers.signing import signersfile

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "signers.md").read_text("utf-8")
_PARTS = {
    "authority": signersfile.Authority,
    "usages": signersfile.Usages,
    "subject": signersfile.Subject,
    "names": signersfile.Names,
    "lifetime": signersfile.Lifetime,
}


def test_the_example_can_be_used():
    """The example in the documentation is a valid signers file."""
    example = re.search(r"```yaml\n(apiVersion.*?)```", TEXT, re.DOTALL)
    assert len(signersfile.parse(example[1].encode()).signers) == 3


def test_every_field_is_explained():
    """The table has exactly one row for each field."""
    fields = {
        f"{part}.{field.encode_name}" for part, struct in _PARTS.items() for field in msgspec.structs.fields(struct)
    }
    fields |= {field.encode_name for field in msgspec.structs.fields(signersfile.SignerDefinition)} - set(_PARTS)
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    assert {name for row in rows for name in re.findall("`([^`]+)`", row)} == fields
