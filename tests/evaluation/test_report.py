"""The report: self-contained, complete, truthful in its headline, and safe against strange names."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import envs
from diffpolicy.evaluation import EvaluationError, judge
from diffpolicy.evaluation.certificate import read_certificate, write_certificate
from diffpolicy.evaluation.figures import Curve, FeasibleSlice, feasible_figure, infeasible_iou
from diffpolicy.evaluation.report import Extras, ReportError, headline, write_report
from diffpolicy.evaluation.svg import COLOURS, MARKERS

HASH = "0123456789abcdef" * 4
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects tags, ids and references, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.references: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        self.references += [v for k, v in attrs if v and k in ("src", "href", "xlink:href", "data", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def extras(evaluation: Any, tmp_path_factory: pytest.TempPathFactory) -> Extras:
    folder = tmp_path_factory.mktemp("report")
    film = folder / "film.mp4"
    film.write_bytes(b"not really a film")
    weights = {arm.name: [HASH] * 3 for arm in evaluation.arms}
    path = folder / "certificate.json"
    write_certificate(
        evaluation,
        path,
        data_hash=HASH,
        weights_hashes=weights,
        command=["diffpolicy", "evaluate"],
        manifest={},
    )
    axis = np.linspace(-3, 3, 31)
    distance = np.hypot(*np.meshgrid(axis, axis))
    return Extras(
        dataset=(np.linspace(0, 800, 50), np.linspace(0, 80, 50)),
        curves=[
            Curve(name, [0, 10, 20], [3.0, 2.0, 1.5]) for name in ("actor loss", "critic loss", "share < 0")
        ],
        feasible=[
            FeasibleSlice(f"v {v}", axis, axis, 1 - distance, distance > 1.2, distance > 1) for v in (0, 1, 2)
        ],
        video=film,
        film_strip=b"png",
        certificate=read_certificate(path).document,
    )


@pytest.fixture(scope="module")
def text(evaluation: Any, extras: Extras, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(
        evaluation, tmp_path_factory.mktemp("html") / "report.html", subject="FISOR", extras=extras
    )
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


def test_it_needs_nothing_from_elsewhere(text: str) -> None:
    page = Page(text)
    assert page.counts["svg"] == 5
    assert page.counts["video"] == 1
    assert len(page.references) > 5
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)


def test_figures_do_not_borrow_each_other_s_parts(text: str) -> None:
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    used = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert used <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)


def test_it_says_what_was_found_and_where_from(text: str, evaluation: Any) -> None:
    for arm in evaluation.arms:
        assert text.count(arm.name) >= 4
    assert headline(evaluation, "FISOR", 10) in unescape(text)
    assert HASH in text
    assert "diffpolicy evaluate" in text
    assert "share &lt; 0" in text
    assert "IoU 0.66 (naive 0.71)" in text
    assert "currentColor" in text
    assert "#010203" not in text


def test_headlines_in_plain_words(evaluation: Any, episodes: Any) -> None:
    good = headline(evaluation, "FISOR", 10)
    assert good.startswith("FISOR is safe on BallCircle at cost limit 10: of 60 episodes none exceeded it")
    assert "at most 4.9 % of episodes" in good
    bad = headline(evaluation, "reward only", 10)
    assert "is not safe" in bad
    assert "60 episodes all exceeded" in bad
    lucky = judge(envs.task("BallCircle"), {"a": episodes([[0.0] * 10], [[0.0] * 8 + [45.0] * 2])}, seed=0)
    assert "was not shown to be safe" in headline(lucky, "a", 10)


def test_only_the_evaluation_is_needed_and_names_are_escaped(episodes: Any, tmp_path: Path) -> None:
    name = "<b>A & B</b> $x_1"
    result = judge(envs.task("PointRobot"), {name: episodes([[1.0, 2.0]], [[0.0, 3.0]])}, seed=0)
    text = write_report(result, tmp_path / "report.html", subject=name).read_text()
    page = Page(text)
    assert "b" not in page.counts
    assert "video" not in page.counts
    assert page.counts["svg"] == 3
    assert "One training seed" in text or "one training seed" in text


def test_many_arms_look_different() -> None:
    looks = {(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]) for index in range(20)}
    assert len(looks) == 20


def test_the_same_results_give_the_same_page(evaluation: Any, tmp_path: Path) -> None:
    pages = [write_report(evaluation, tmp_path / name, subject="FISOR").read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_what_cannot_be_reported(evaluation: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(EvaluationError, match="no arm 'nobody'"):
        write_report(evaluation, path, subject="nobody")
    with pytest.raises(EvaluationError, match="limit 15"):
        write_report(evaluation, path, subject="FISOR", limit=15)
    with pytest.raises(ReportError, match=r"film\.mp4"):
        write_report(evaluation, path, subject="FISOR", extras=Extras(video=tmp_path / "film.mp4"))
    assert not any(tmp_path.iterdir())


def test_iou_of_infeasible_sets() -> None:
    truth = np.array([True, True, False, False])
    assert infeasible_iou(truth, truth) == 1.0
    assert infeasible_iou([True, False, False, True], truth) == pytest.approx(1 / 3)
    assert infeasible_iou(np.ones(4, bool), np.ones(4, bool)) == 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_a_learned_set_without_an_edge_is_drawn_without_complaint(level: float) -> None:
    axis, all_safe = np.linspace(-3, 3, 5), np.full((5, 5), level < 0)
    one = FeasibleSlice("v 1", axis, axis, np.full((5, 5), level), all_safe, all_safe)
    assert "IoU 1.00 (naive 1.00)" in feasible_figure([one])
