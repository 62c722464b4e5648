"""`ttc serve`: its usage, and the miniature that is exported once."""

from pathlib import Path

import pytest

from tests.support.command_line import refused, run
from ttc.commands import serve as command
from ttc.demo.kept import kept_bundle
from ttc.demo.miniature import miniature


def test_usage(tiny: Path) -> None:
    assert "no bundle; name one, or try: ttc serve --demo" in refused("serve")
    done = run("serve", tiny, "--demo")
    assert done.exit_code == 2
    assert "give a BUNDLE or --demo" in done.stderr


def test_the_miniature_is_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mini: Path) -> None:
    """What lies in the cache is taken as it is; another checkpoint has another place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with miniature() as checkpoint:
        kept = kept_bundle(checkpoint)
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text("{}")
        assert kept_bundle(other).parent != kept.parent
    assert kept.is_relative_to(tmp_path)
    kept.parent.mkdir(parents=True)
    kept.symlink_to(mini)
    monkeypatch.setattr("ttc.export", None)
    assert command._miniature() == kept
