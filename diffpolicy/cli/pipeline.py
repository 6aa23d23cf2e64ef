"""`diffpolicy pipeline`: from data to a judged policy in one run folder; goes on where it was stopped."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy import data, evaluation, training
from diffpolicy.cli import collect, evaluate, refine, train, train_world_model
from diffpolicy.cli.common import SHIPPED, compute_device, dataset_file, dataset_path, listed
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.pipeline_outcome import REFINED, START, Refinement, read_refinement, summary
from diffpolicy.cli.pipeline_report import refinement_section
from diffpolicy.cli.refine_options import check_options, cost_limit
from diffpolicy.cli.refine_subjects import MEAN
from diffpolicy.cli.stages import Stage, check_words, compose_stage
from diffpolicy.cli.verbs import STAGES
from diffpolicy.evaluation.certificate import read_certificate
from diffpolicy.policies import load_policy
from diffpolicy.refinement import RefusedError

VERBS = {stage: stage for stage in STAGES} | {"world": "train-world-model"}
FOLDERS = {
    "collect": "collect",
    "train": "critics",
    "world": "world",
    "refine": "refined",
    "evaluate": "report",
}
# What the pipeline decides, stage by stage, beside task, data and run.
DECIDED = {
    "collect": ("to", "extend"),
    "train": ("seeds",),
    "world": ("seed",),
    "refine": ("seed", "world", "critics"),
    "evaluate": ("checkpoint",),
}


def main(cfg: DictConfig) -> None:
    """Do, or go on with, the stages that `cfg` describes in the folder `cfg.run`, and say what came of them."""
    console = Console(soft_wrap=True, highlight=False)
    pipeline = Pipeline(cfg, console)
    result, refinements = pipeline.run()
    console.rule("outcome")
    console.print(summary(result, refinements, pipeline.limit))
    console.print(f"report: {Path(cfg.run) / FOLDERS['evaluate'] / 'report.html'}", style="bold")


class Pipeline:
    """The stages of one run folder, in their order; every option is read before the first begins."""

    def __init__(self, cfg: DictConfig, console: Console) -> None:
        self._cfg, self._console, self._run = cfg, console, Path(cfg.run)
        self._task, self._seeds = envs.task(cfg.task), listed(cfg, "seeds", int)
        if self._task.score != "return":
            raise ConfigError(
                f"{self._task.name} is scored by {self._task.score}: the pipeline is for tasks with rewards and costs; "
                "chain the verbs yourself: train, train-world-model, refine start=... method=reward, evaluate"
            )
        if not self._seeds or len(set(self._seeds)) < len(self._seeds):
            raise ConfigError("seeds must name different training seeds, at least one, for example seeds=[0]")
        words = self._words = [*listed(cfg, "settings", str), *listed(cfg, "typed", str)]
        check_words(words, STAGES)
        shared = {name: cfg[name] for name in ("device", "threads", "progress") if cfg[name] is not None}
        self._configs = {stage: self._compose(stage, words, shared) for stage in STAGES}
        self._collects = cfg.data is None and (self._task.id not in SHIPPED or self._said("collect."))
        self._check()

    @property
    def limit(self) -> float:
        """The cost limit of an episode that policies are refined for."""
        return cost_limit(self._configs["refine"])

    def run(self) -> tuple[evaluation.Evaluation, list[Refinement]]:
        """Do what is not done yet; return the evaluation of all arms, and what came of every seed's refinement."""
        dataset = self._collect()
        self._train(dataset)
        self._learn_world(dataset)
        refinements = self._refine(dataset)
        return self._evaluate(dataset, refinements), refinements

    def _compose(self, stage: str, words: Sequence[str], shared: Mapping[str, Any]) -> DictConfig:
        fixed: dict[str, Any] = {"task": self._task.id, "run": str(self._folder(stage))}
        fixed |= dict.fromkeys((*DECIDED[stage], *(() if stage == "collect" else ("data",))))
        return compose_stage(stage, VERBS[stage], words, fixed, shared)

    def _check(self) -> None:
        """Refuse what would otherwise be found out after an hour."""
        configs = self._configs
        if configs["train"].policy.name != "fisor":
            raise ConfigError(
                f"train.policy={configs['train'].policy.name}: the pipeline trains policy=fisor"
            )
        if self._cfg.data is not None and self._said("collect."):
            raise ConfigError("data=FILE and options of collect: leave one of them out")
        model = configs["world"].world_model
        if model.kind == "pixels" or train_world_model.model_config(model).members < 2:
            raise ConfigError(
                f"world.world_model={model.name}: the pipeline refines in models of states with two members or more, "
                "whose disagreement says what they do not know"
            )
        check_options(configs["refine"])
        limits = [float(limit) for limit in configs["evaluate"].limits]
        if self.limit not in limits:
            raise ConfigError(
                f"refine.limit={self.limit:g} is not among evaluate.limits={limits}: refine for one that "
                "is evaluated"
            )

    def _collect(self) -> Path:
        if not self._collects:
            path = dataset_path(self._task, self._cfg.data)
            self._console.print(f"collect: not needed, the data are {path.name}")
            return path
        config, folder = self._configs["collect"], self._folder("collect")
        path = dataset_file(folder, self._task)
        config.to = str(path)
        stage = Stage("collect", folder, config, {"to": path.name})

        def work() -> dict[str, Any]:
            path.unlink(missing_ok=True)  # of a collection that was stopped, which begins anew
            collect.main(config)
            return {}

        self._do(stage, work)
        return path

    def _train(self, dataset: Path) -> None:
        config = self._configs["train"]
        config.data, config.seeds = str(dataset), self._seeds
        stage = Stage("train", self._folder("train"), config, {"data": data.sha256(dataset)})
        self._do(stage, lambda: {"trained": train.train(config).name})

    def _learn_world(self, dataset: Path) -> None:
        config = self._configs["world"]
        config.data = str(dataset)
        stage = Stage(
            "world", self._folder("world"), config, {"data": data.sha256(dataset), "seed": self._seeds}
        )

        def work() -> dict[str, Any]:
            for seed in self._seeds:
                config.seed, config.run = seed, str(self._member("world", seed))
                train_world_model.main(config)
            return {}

        self._do(stage, work)

    def _refine(self, dataset: Path) -> list[Refinement]:
        config = self._configs["refine"]
        critics, worlds = self._folder("train"), [self._member("world", seed) for seed in self._seeds]
        config.data, config.critics = str(dataset), str(critics)
        inputs = {
            "data": data.sha256(dataset),
            "critics": _weights(critics),
            "world": [_weights(world) for world in worlds],
            "seed": self._seeds,
        }
        stage = Stage("refine", self._folder("refine"), config, inputs)

        def work() -> dict[str, Any]:
            refused: dict[str, Any] = {}
            for seed, world in zip(self._seeds, worlds, strict=True):
                run = self._member("refine", seed)
                config.seed, config.run, config.world = seed, str(run), str(world)
                try:
                    refine.main(config)
                except RefusedError as error:  # a policy that the gate refuses is a result
                    self._console.print(str(error), style="bold")
                    if not (run / refine.RELEASE).exists():  # not even its start was let through
                        refused[str(seed)] = str(error)
            return {"refused": refused}

        refused = self._do(stage, work)["refused"]
        return [
            read_refinement(seed, self._member("refine", seed), refused.get(str(seed)))
            for seed in self._seeds
        ]

    def _evaluate(self, dataset: Path, refinements: list[Refinement]) -> evaluation.Evaluation:
        config, folder, source = self._configs["evaluate"], self._folder("evaluate"), self._folder("train")
        config.data, config.checkpoint = str(dataset), str(source)
        guests = self._guests(refinements)
        weights = {name: list(guest.weights) for name, guest in guests.items()}
        inputs = {"data": data.sha256(dataset), "checkpoint": _weights(source), "guests": weights}
        if all(one.released for one in refinements) and not self._said("evaluate.headline="):
            config.headline = REFINED

        def work() -> dict[str, Any]:
            evaluate.evaluate(
                config,
                source,
                folder,
                guests,
                {
                    "refinement": [
                        dict(one.document.get("release", {"reasons": [one.refused]})) for one in refinements
                    ]
                },
                lambda result: [refinement_section(result, refinements, self.limit)],
            )
            return {}

        self._do(Stage("evaluate", folder, config, inputs), work)
        return read_certificate(folder / "certificate.json").evaluation

    def _guests(self, refinements: Sequence[Refinement]) -> dict[str, evaluate.Guest]:
        """Return where refinement began and what it led to, as deployed, where every training seed has them."""
        config, found = self._configs["refine"], {}
        runs = [self._member("refine", seed) for seed in self._seeds]
        folders = {START: [run / "start" for run in runs]}
        if all(one.refused is None for one in refinements):
            folders[REFINED] = runs
        for name, members in folders.items():
            if not all((member / "checkpoints").is_dir() for member in members):
                continue
            checkpoints = [training.read_checkpoint(training.best_checkpoint(member)) for member in members]
            device = compute_device(self._configs["evaluate"])
            policies = [load_policy(one, config.deploy or MEAN, device=device) for one in checkpoints]
            found[name] = evaluate.Guest(policies, [_weights(member) for member in members])
        return found

    def _do(self, stage: Stage, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do the work of a stage unless it is finished; return what is to be said of it."""
        outcome = stage.outcome()
        if outcome is not None:
            self._console.print(f"{stage.name}: done ({stage.folder})")
            return outcome
        verb = VERBS[stage.name].replace("-", " ")
        self._console.rule(f"{STAGES.index(stage.name) + 1} of {len(STAGES)}: {verb}, {self._task.name}")
        outcome = work()
        stage.finish(outcome)
        return outcome

    def _said(self, beginning: str) -> bool:
        return any(word.lstrip("+~").startswith(beginning) for word in self._words)

    def _folder(self, stage: str) -> Path:
        return self._run / FOLDERS[stage]

    def _member(self, stage: str, seed: int) -> Path:
        """Return the run of one training seed: the stage's own folder where there is no other seed."""
        folder = self._folder(stage)
        return folder if len(self._seeds) == 1 else folder / f"seed-{seed}"


def _weights(run: Path) -> str:
    return str(
        training.read_checkpoint(training.best_checkpoint(run)).manifest["sha256"]["model.safetensors"]
    )
