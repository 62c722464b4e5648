"""docs/serving.md tells the truth: its blocks run, and fields, settings and metrics are those there are."""

import re
from pathlib import Path

from tests.house.test_docs import blocks
from tests.support.commands import command_environment, run_block
from tests.support.service import Running
from ttc.serving.service.settings import NIM_NAMES
from ttc.serving.wire import fields

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_blocks_run(served: Running, tmp_path: Path) -> None:
    environment = command_environment(tmp_path / "bin")
    tested = [block for block in blocks(TEXT) if block.tested]
    assert [block.kind for block in tested] == ["console", "python"]
    said = ""
    for block in tested:
        script = block.script().replace("http://localhost:8000", served.url)
        script = script.replace('model="mini"', f'model="{served.service.settings.model_name}"')
        said += run_block(block.kind, script, tmp_path, environment)
    assert "The answer is 61" in said
    assert "data: [DONE]" in said
    assert "ttc_tokens_per_nfe_sum" in said


def test_names(served: Running) -> None:
    known = {*fields._OPTIONS, *fields._COMMON, *fields._STRUCTURED, *fields._COMPLETION}
    assert not [name for name in known - {"suffix", "best_of"} if f"`{name}`" not in TEXT]
    assert not [name for name in NIM_NAMES if f"`{name}`" not in TEXT]
    described = TEXT.split("## Metrics")[1].split("##")[0]
    kinds = re.findall(r"^# TYPE ttc_(\w+) (\w+)", served.client.get("/metrics").text, re.MULTILINE)
    metrics = {name for name, _ in kinds if not name.endswith("_created")}
    assert metrics == set(re.findall(r"`([a-z0-9_]+)(?:\{\w+\})?`", described)) - {"ttc_"}
