"""The policies' tables, over fewer requests."""

import pytest

from benchmarks import serve_policies


def test_the_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serve_policies, "REQUESTS", 34)
    monkeypatch.setattr(serve_policies, "SECONDS", 2.0)
    monkeypatch.setattr(serve_policies, "LONG", 96)
    serve_policies.main()
    extension, prompts, fairness = capsys.readouterr().out.strip().split("\n\n")
    assert [len(each.splitlines()) for each in (extension, prompts, fairness)] == [14, 6, 6]
    cells = [line.split(" | ") for line in extension.splitlines()[2:]]
    per_capacity, shared = (
        [float(row[2]) for row in cells if row[1] == states] for states in ("per capacity", "shared")
    )
    assert max(per_capacity) < min(shared)
