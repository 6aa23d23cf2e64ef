"""Completion, by sourcing the installed script in bash and asking as bash asks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def query(command, monkeypatch, line: str) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    status, out, _ = command("-sc", "query=bash")
    assert status == 0
    return out.split()


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("diffpolicy tra", ["train", "train-world-model"]),
        ("diffpolicy  bench", ["bench", "benchmark"]),
        ("diffpolicy train tas", ["task="]),
        ("diffpolicy train policy=fi", ["policy=fisor"]),
        ("diffpolicy train preset=", ["preset=fast", "preset=paper"]),
        ("diffpolicy train seeds=[0] preset=p", ["preset=paper"]),
        ("diffpolicy evaluate devi", ["device="]),
        ("diffpolicy data check fi", []),
        ("diffpolicy nonsense ta", []),
    ],
)
def test_candidates(command, monkeypatch, line, candidates):
    assert query(command, monkeypatch, line) == candidates


def test_all_verbs_after_the_program(command, monkeypatch):
    assert {"train", "data", "demo"} <= set(query(command, monkeypatch, "diffpolicy "))


@pytest.mark.parametrize("words", [("-sc", "install=bash"), ("train", "-sc", "install=bash")])
def test_the_script_registers_the_whole_command(command, words):
    status, out, _ = command(*words)
    assert status == 0
    assert out.rstrip().endswith("hydra_bash_completion diffpolicy")


@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_other_shells(command, shell):
    status, out, _ = command("-sc", f"install={shell}")
    assert status == 0
    assert "diffpolicy" in out


@bash
def test_bash_completes(tmp_path):
    program = tmp_path / "diffpolicy"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m diffpolicy "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(diffpolicy -sc install=bash)"
    COMP_LINE="diffpolicy train preset=pa" COMP_POINT=26 COMP_CWORD=2
    hydra_bash_completion
    echo "completed: ${COMPREPLY[@]}"
    """
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **paths}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("completed: preset=paper"), done.stderr
