"""Jobs: done ones are not done again, changed ones are, interrupted ones leave nothing behind."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diffpolicy.cli.suites.jobs import Job, run_all


def job(folder: Path, made: list[str], name: str, **of: Any) -> Job:
    def make() -> str:
        made.append(name)
        return name.upper()

    return Job(name, folder / "new" / f"{name}.json", of, make)


def test_results_are_kept_until_they_are_of_something_else(tmp_path: Path) -> None:
    made: list[str] = []
    console = Console(quiet=True)
    jobs = [job(tmp_path, made, name, weights="1", seeds=[0, 1]) for name in ("a", "b")]
    run_all(jobs[:1], console)
    run_all(jobs, console)
    assert made == ["a", "b"]
    assert [one.result() for one in jobs] == ["A", "B"]
    changed = job(tmp_path, made, "a", weights="2", seeds=[0, 1])
    assert not changed.kept()
    run_all([changed], console)
    assert made == ["a", "b", "a"]


def test_an_interrupted_job_leaves_no_result(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    one = Job("a", tmp_path / "a.json", {}, interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert not one.kept()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.json").write_text('{"of": {}, "resu')
    assert not one.kept()


def test_progress_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []
    run_all([job(tmp_path, made, name) for name in ("a", "b")], Console(width=200))
    lines = capsys.readouterr().out.splitlines()
    assert "1/2 a" in lines[0]
    assert "to go" in lines[0]
    assert "2/2 b" in lines[1]
