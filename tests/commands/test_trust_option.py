"""`--public-key` of every command that opens a bundle, and what signs one."""

import dataclasses
import shutil
from pathlib import Path

import click
import pytest

import ttc
from tests.fuzz.seeds import engines_manifest
from tests.support.command_line import ask, refused, run, start
from tests.support.keys import key_pair
from ttc.cli import program
from ttc.errors import DigestError
from ttc.verify.run import verify

COMMANDS = {
    "generate": ("5 6", "--ids", "--max-new-tokens", 4),
    "bench": ("--limit", 1),
    "verify": ("--backend", "onnxruntime"),
    "profile": ("--repeats", 1),
    "inspect": (),
    "build": ("--dry-run",),
}


@pytest.fixture(scope="module")
def signed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A bundle, and its private and public key."""
    folder = tmp_path_factory.mktemp("signed")
    copy = shutil.copytree(tiny, folder / "a.bundle", ignore=shutil.ignore_patterns("*.sig", "verification*"))
    keys = key_pair(folder, "own")
    made = ask("sign", copy, "--key", keys[0])
    assert made["files"] == [str(copy / "bundle.json.sig")]
    return copy, *keys


# They run and show nothing that somebody could have signed: a checkpoint, the package's own, the machine,
# or what they sign themselves.
WITHOUT = {"export", "quantize", "plan", "sign", "cache", "doctor", "demo"}


def test_every_command_that_opens_a_bundle_or_engines_has_it() -> None:
    context, found = click.Context(program), set()
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command is not None
        if any("--public-key" in option.opts for option in command.params):
            found.add(name)
    assert found == {*COMMANDS, "serve", "run"}
    assert found | WITHOUT == set(program.list_commands(context))


def test_unsigned_engines_are_not_timed(tmp_path: Path, signed: tuple[Path, Path, Path]) -> None:
    made = dataclasses.replace(engines_manifest(), engines={}, files={})
    (tmp_path / "engines.json").write_bytes(made.to_json())
    line = refused("run", tmp_path, "--public-key", signed[2])
    assert "engines.json.sig: missing; these engines are not signed" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unsigned_bundle_is_refused(tiny: Path, signed: tuple[Path, Path, Path], command: str) -> None:
    line = refused(command, tiny, *COMMANDS[command], "--public-key", signed[2])
    assert "bundle.json.sig: missing; this bundle is not signed" in line


@pytest.mark.parametrize("command", ["generate", "inspect", "build"])
def test_a_signed_bundle_is_taken(signed: tuple[Path, Path, Path], command: str) -> None:
    done = run(command, signed[0], *COMMANDS[command], "--trust", signed[2])
    assert done.exit_code == 0, done.output
    if command == "inspect":
        assert f"by the key in {signed[2]}" in done.stdout


def test_the_service_serves_signed_bundles_only(tiny: Path, signed: tuple[Path, Path, Path]) -> None:
    process = start("serve", tiny, "--port", 0, "--public-key", signed[2])
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    assert "this bundle is not signed" in said


def test_a_verification_is_signed_with_the_bundle(signed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    bundle, private, public = signed
    copy = shutil.copytree(bundle, tmp_path / "b.bundle")
    few = {"prompts": [[5, 6, 7]], "max_new_tokens": 4}
    verify(copy, ["onnxruntime"], trust=public, **few)
    with pytest.raises(DigestError, match="this record is not signed"):
        ttc.load(copy, trust=public, require_verified=True)
    made = ask("sign", copy, "--key", private)
    assert made["backends"] == {"onnxruntime": True}
    ttc.load(copy, trust=public, require_verified=True).close()
    # What a record says that somebody else wrote is not taken over by one that is signed later.
    (copy / "verification.json.sig").unlink()
    report = verify(copy, ["torch"], trust=public, **few)
    assert report.passed
    assert ask("inspect", copy)["verification"].keys() == {"torch"}
