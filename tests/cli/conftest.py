"""Runs commands in this process, with a trivial verb beside the real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.verbs import VERBS, Verb

CONFIGS = Path(__file__).parent / "configs"
WITH_TRIVIAL = {**VERBS, "trivial": Verb("tests.cli.trivial", "writes down what it was given")}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `command(*words) -> (exit status, stdout, stderr)`, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    for switch in ("DIFFPOLICY_DEBUG", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(switch, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        extra = ("--config-dir", str(CONFIGS)) if words[:1] == ("trivial",) else ()
        try:
            status = dispatch([*words, *extra], WITH_TRIVIAL)
        except SystemExit as leaving:  # argparse's own, for an unknown flag and for --help
            status = leaving.code if isinstance(leaving.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
