"""deploy/watch and docs/watch.md: the unit starts an existing command, and the example is a valid configuration."""

from __future__ import annotations

import configparser
import re
import shlex

from certplane.cli.watch import watch
from certplane.expiry import settings, settingsfile
from tests.house import manifests

ROOT = manifests.DEPLOY.parent


def test_the_unit_runs_the_watch():
    """With an existing option, and the state directory of the configuration."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string((manifests.DEPLOY / "watch" / "certplane-watch.service").read_text("utf-8"))
    service = unit["Service"]
    assert ["/opt/certplane/bin/certplane", "watch", "--config", str(settings.DEFAULT_FILE)] == shlex.split(
        service["ExecStart"]
    )
    assert "--config" in {text for parameter in watch.params for text in parameter.opts}
    assert f"/var/lib/{service['StateDirectory']}" == str(settings.DEFAULT_STATE_DIRECTORY)
    assert "2" == service["RestartPreventExitStatus"]


def test_the_example_is_valid(tmp_path):
    """Each kind of source is in it."""
    text = re.search(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "watch.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "watch.yaml").write_text(text[1])
    parsed = settingsfile.load(tmp_path / "watch.yaml")
    assert set(settings.Place.__args__) == {type(source.place) for source in parsed.sources}
