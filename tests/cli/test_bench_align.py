"""The bench of alignment, small: its line of JSON, the denoiser's share, memory in processes of their own."""

import json
from pathlib import Path

import pytest

from diffpolicy.cli.dispatch import dispatch


def test_the_bench_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    small = [
        "channels=[32,32]",
        "latents=8",
        "steps=4",
        "group_size=2",
        "seconds=0.1",
        "draws=1",
        "threads=1",
    ]
    assert dispatch(["bench", "align", f"run={tmp_path}", *small]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = line["rows"]["unet2d_condition"]
    assert line["ratio"] == pytest.approx(row["denoiser_share"], abs=0.01)
    assert 0.0 < row["denoiser_share"] <= 1.0
    assert row["peak_memory_mb_plain"] > 0
    assert row["peak_memory_mb_checkpointed"] > 0
