"""The example of a service runs, streams to everybody, and lets go of who leaves."""

import ast
import subprocess
import sys
from pathlib import Path

from examples.service import QUESTIONS

ROOT = Path(__file__).parents[2]


def test_the_service_answers_everybody(mini, engines):
    done = subprocess.run(
        [sys.executable, "examples/service.py", str(mini)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "mallory: has left"
    engine = engines("miniature", "onnxruntime", None)
    for user, question in QUESTIONS.items():
        lines = [line.removeprefix(f"{user}: ") for line in done.stdout.splitlines() if line.startswith(user)]
        want = engine.generate(f"Question: {question}\nAnswer:", max_new_tokens=64)
        assert "".join(map(ast.literal_eval, lines[:-1])) == want.text
        assert lines[-1] == f"{want.finish_reason} after {len(want.token_ids)} tokens"
