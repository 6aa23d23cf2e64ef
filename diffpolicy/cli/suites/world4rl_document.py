"""What the suite `world4rl` reports: success in truth and in imagination, gains with intervals, confusion."""

from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from diffpolicy.cli.suites.results import header, target
from diffpolicy.evaluation import ScoreTable, tabulate
from diffpolicy.evaluation.rollout import Episode
from diffpolicy.refinement import Confusion

BASE, OURS = "clone", "refined"


class Found(NamedTuple):
    """The measurements of one policy of a task, one of each training seed."""

    task: str
    arm: str
    results: list[dict[str, Any]]

    @property
    def episodes(self) -> tuple[tuple[Episode, ...], ...]:
        """The real episodes of every training seed."""
        return tuple(tuple(Episode(**row) for row in result["episodes"]) for result in self.results)

    @property
    def imagined(self) -> list[float]:
        """The success in imagination of every training seed."""
        return [result["imagined_success"] for result in self.results]

    @property
    def confusion(self) -> Confusion:
        """What the models make of the real actions, over all training seeds."""
        counts = [Confusion(**result["confusion"]) for result in self.results]
        return Confusion(*(sum(each) for each in zip(*counts, strict=True)))

    def line(self) -> str:
        """What to print as soon as it is known."""
        real = [sum(each.success for each in row) / len(row) for row in self.episodes]
        pairs = ", ".join(f"{r:.2f} ({i:.2f})" for r, i in zip(real, self.imagined, strict=True))
        return f"  {self.task} {self.arm}: success, by seed, real (imagined): {pairs}"


def make_document(cfg: DictConfig, found: list[Found]) -> dict[str, Any]:
    """Return all that was found, as plain values."""
    rows, targets = [], []
    for task in dict.fromkeys(one.task for one in found):
        mine = {one.arm: one for one in found if one.task == task}
        table = tabulate(task, "success", {arm: one.episodes for arm, one in mine.items()}, reference=BASE)
        for row in table.to_json():
            one = mine[row["arm"]]
            imagined = {"imagined": sum(one.imagined) / len(one.imagined), "imagined_by_seed": one.imagined}
            fooled = {"confusion": one.confusion._asdict(), "fooled": one.confusion.fooled}
            rows.append({**row, **imagined, **fooled})
        targets.append(gained(task, table))
    return {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": cfg.episodes,
        "seed": cfg.seed,
        "demonstrations": cfg.demonstrations,
        "arms": OmegaConf.to_container(cfg.arms, resolve=True),
        "pixels": OmegaConf.to_container(cfg.pixels, resolve=True),
        "rows": rows,
        "targets": targets,
    }


def gained(task: str, table: ScoreTable) -> dict[str, Any]:
    """Return the target of a task: more success than the clone's, with its whole interval."""
    difference = table.row(OURS).difference
    assert difference is not None, "the clone is the reference"
    interval = difference.mean_interval
    return target(f"{task}: success gained", "> 0", difference.mean, interval, interval.low > 0.0)


def markdown(document: dict[str, Any]) -> str:
    """Return the document's rows as a Markdown table."""
    lines = [
        f"Made by `{document['command']}`; {len(document['seeds'])} training seeds with {document['demonstrations']} "
        f"demonstrations each ({document['pixels']['demonstrations']} from pixels), {document['episodes']} real "
        f"episodes of each policy from seed {document['seed']}, all mean actions. Brackets: 95 % intervals over "
        "training seeds and episodes, of gains over the same resets. Imagined: whole episodes in the model that the "
        "policy was refined in. Fooled: real failures that this model, fed their actions, calls successes. Missed: "
        "real successes that it does not.",
        "",
        "| task | policy | success | by seed | gained | imagined | fooled | missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        by_seed = ", ".join(f"{value:.2f}" for value in row["score_by_seed"])
        counts = Confusion(**row["confusion"])
        failures = counts.false_positive + counts.true_negative
        successes = counts.true_positive + counts.false_negative
        lines.append(
            f"| {row['task']} | {row['arm'].replace('_', ' ')} | {_interval(row['score'])} | {by_seed} "
            f"| {_interval(row['difference'])} | {row['imagined']:.3f} | {counts.false_positive}/{failures} "
            f"| {counts.false_negative}/{successes} |"
        )
    return "\n".join(lines) + "\n"


def _interval(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate["mean_interval"]
    return f"{estimate['mean']:.3f} [{low:.3f}, {high:.3f}]"
