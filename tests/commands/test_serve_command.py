"""`ttc serve`: its usage, and the miniature by its name."""

from pathlib import Path

import pytest

from tests.support.command_line import refused, run
from ttc.formats.shipped import shipped_bundle


def test_usage(tiny: Path) -> None:
    assert "no bundle; name one, or try: ttc serve --demo" in refused("serve")
    done = run("serve", tiny, "--demo")
    assert done.exit_code == 2
    assert "give a BUNDLE or --demo" in done.stderr


@pytest.mark.parametrize("words", [["--demo"], ["miniature"]])
def test_the_miniature_needs_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr("ttc.serving.server.serve", lambda settings, say: served.append(settings) or 0)
    assert run("serve", *words).exit_code == 0
    assert served[0].bundle == str(shipped_bundle())
    assert served[0].model_name == "miniature"
