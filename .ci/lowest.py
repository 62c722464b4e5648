"""Install the lowest versions that pyproject.toml allows into a fresh environment, and try them.

    python .ci/lowest.py [BUNDLE] [--newest] [--keep FOLDER]

It is the run time and its extras that are tried here, with the bundle of the miniature that comes with the
package or another one with a tokenizer. What exports needs torch, and is not tried.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("gif", "serve", "sign", "structured")
# What ttc does with each of them, in a process of its own.
SAMPLE = """
import sys
from pathlib import Path
import ttc
from click.testing import CliRunner
from ttc.cli import program

bundle, work = sys.argv[1], Path(sys.argv[2])


def run(*words):
    done = CliRunner().invoke(program, [str(word) for word in words], prog_name="ttc")
    assert done.exit_code == 0, f"{words}: {done.output} {done.exception!r}"
    return done.output


for name in "export quantize build generate serve bench plan inspect verify profile".split():
    run(name, "--help")
assert "all digests checked" in run("inspect", bundle)
for mode in ("diffusion", "ar", "lossless", "prompt-lookup"):
    assert run("generate", bundle, "Question: Tom has 2 boxes.", "--mode", mode, "--max-new-tokens", 24)
run("generate", bundle, "Question:", "--mode", "ar", "--choice", "yes", "--choice", "no")
run("generate", bundle, "Question:", "--max-new-tokens", 8, "--save-steps", work / "a.gif")
few = ("--problems", 2, "--timed", 1, "--repeats", 1, "--max-new-tokens", 8, "--modes", "ar,diffusion")
run("bench", bundle, *few, "-o", work / "bench.json")
run("profile", bundle, "--repeats", 1)
run("plan")
run("doctor")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ttc.formats.signing import sign, verify

key = Ed25519PrivateKey.generate()
pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
(work / "key").write_bytes(key.private_bytes(*pem))
pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
(work / "public").write_bytes(key.public_key().public_bytes(*pem))
verify(b"x", sign(b"x", work / "key"), work / "public", "x")
print("the commands, four modes, a grammar, a GIF and a signature: all right")
"""
SERVICE = """
import json, os, signal, socket, subprocess, sys, time, urllib.request

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
process = subprocess.Popen([sys.executable, "-m", "ttc", "serve", sys.argv[1], "--port", str(port)])
try:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.1)
    # A question of the miniature's kind: after other texts it may end at once.
    body = json.dumps({"prompt": "Question: Sort 93, 26, 13, 88.\\nAnswer:", "max_tokens": 8}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
    )
    assert json.load(urllib.request.urlopen(request))["choices"][0]["text"]
finally:
    process.send_signal(signal.SIGTERM)
assert process.wait(60) == 0
print("the service: all right")
"""


def requirements(lowest: bool) -> list[str]:
    """Return what the run time and its extras need, each at its lower bound or open."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    return [re.sub(r">=([\w.]+).*", r"==\1", line) if lowest else line for line in wanted]


def main() -> int:
    """Install and try; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="miniature", help="[default: the miniature]")
    parser.add_argument("--newest", action="store_true", help="the newest versions that are allowed instead")
    parser.add_argument("--keep", type=Path, help="where to put the environment  [default: nowhere]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ttc-lowest-") as folder:
        place = asked.keep or Path(folder) / "venv"
        venv.create(place, with_pip=True)
        python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--only-binary", ":all:"]
        subprocess.run([*pip, *requirements(not asked.newest)], check=True)
        subprocess.run([python, "-m", "pip", "freeze"], check=True)
        work = Path(folder) / "work"
        work.mkdir()
        code = 0
        for program in (SAMPLE, SERVICE):
            bundle = os.path.abspath(asked.bundle) if os.path.exists(asked.bundle) else asked.bundle
            settings = os.environ | {"XDG_CACHE_HOME": str(work), "PYTHONPATH": str(ROOT)}
            words = [python, "-c", program, bundle, work]
            code |= subprocess.run(words, cwd=work, env=settings, check=False).returncode
        return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
