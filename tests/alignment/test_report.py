"""The report is one safe page made of the run folder alone."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy import training
from diffpolicy.alignment import (
    AlignConfig,
    Aligner,
    CopiedRoles,
    Model,
    Online,
    OnlineConfig,
    Reward,
    Rewards,
    Term,
)
from diffpolicy.alignment.monitor import Monitor
from diffpolicy.alignment.objectives import NFT
from diffpolicy.alignment.report import warnings, write_report
from diffpolicy.alignment.stopping import Look, StopRule
from diffpolicy.diffusion import rectified_flow, trailing

BAD = "<script>alert('x')</script>"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(17, 16)

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        out: Tensor = self.layer(torch.cat([noisy.flatten(1), level[:, None] / 100], dim=1))
        return out.reshape(noisy.shape)


class Brightness(Reward):
    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return Rewards(samples.mean((1, 2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = Model(rectified_flow(100), trailing(100, 5), (1, 4, 4), CopiedRoles(Net()))
    objective = NFT(model.matcher())
    online = Online(model, Brightness(), objective, OnlineConfig(groups=2, group_size=8))
    config = AlignConfig(iterations=4, updates=1, learning_rate=1e-2)
    aligner = Aligner(model, [Term(objective, online)], config, {"name": BAD})
    judge = Monitor(
        model,
        Brightness(),
        every=2,
        gold=Brightness(),
        real=torch.rand(5, 1, 4, 4),
        rule=StopRule(manifold=1e-3),
    )
    options: dict[str, Any] = {"checkpoint_every": 2, "log_every": 1, "progress": False}
    training.run(aligner, path, {"prompt": BAD, "seed": 0}, judge=judge, **options)
    return path


class Tags(HTMLParser):
    """Checks that what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_says_what_happened_and_nothing_else_runs_in_it(folder: Path) -> None:
    text = write_report(folder, "Run <1>").read_text()
    assert "<script" not in text
    assert "Run &lt;1&gt;" in text
    assert text.count("&lt;script&gt;") == 2  # in the manifest and in the settings
    assert "The run was stopped: the distance to the nearest real sample" in text
    assert "step-00000002" in text
    assert text.count("<svg") == 4
    assert text.count("data:image/png;base64,") == 1
    tags = Tags()
    tags.feed(text)
    assert tags.open == []


def test_the_page_needs_no_network(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []
    assert "@import" not in text
    assert "url(http" not in text


def test_a_report_repeats_exactly(folder: Path) -> None:
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_what_could_not_be_measured_is_said() -> None:
    looks = [Look(0, 0.0, None, 0.0, None, 1.0), Look(5, 1.0, None, 0.1, None, 0.1)]
    found = " ".join(warnings(looks, StopRule(), {"real": 0}, {"flat_groups": ([5], [0.75])}))
    assert "From step 5 on, 1 looks" in found
    assert "no gold reward" in found
    assert "no real samples" in found
    assert "75%" in found
    fine = [Look(0, 0.0, 0.0, 0.0, 1.0, 1.0)]
    assert warnings(fine, StopRule(), {"real": 9}, {}) == []


def test_a_run_without_a_monitor_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(training.CheckpointError, match="Monitor"):
        write_report(tmp_path)
