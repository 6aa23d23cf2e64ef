"""The verbs of the command line, named here so that `diffpolicy --help` imports none of them."""

from typing import Literal, NamedTuple


class Verb(NamedTuple):
    """A verb: the module whose `main` does the job, one line of help, and how its arguments are read.

    `hydra` verbs have `main(cfg: DictConfig) -> None` and a file `<verb>.yaml` among the configs; `argparse`
    verbs have `main(arguments: list[str]) -> int`. `positional` is the key that a first word without "=" is
    the value of: `diffpolicy bench fisor-act` is `diffpolicy bench bench=fisor-act`. Words that begin with the name of
    one of the `stages`, `train.preset=paper`, are options of other verbs, which the verb runs.
    """

    module: str
    help: str
    arguments: Literal["hydra", "argparse"] = "hydra"
    positional: str | None = None
    stages: tuple[str, ...] = ()


STAGES = ("collect", "train", "world", "refine", "evaluate")

VERBS: dict[str, Verb] = {
    "demo": Verb(
        "diffpolicy.cli.demo", "train, refine, evaluate and film a safe policy in minutes", stages=STAGES
    ),
    "collect": Verb("diffpolicy.cli.collect", "make an offline dataset where none can be downloaded"),
    "data": Verb("diffpolicy.cli.data", "check, fetch or describe a dataset file", "argparse"),
    "train": Verb("diffpolicy.cli.train", "train policies on an offline dataset, or resume a run"),
    "train-world-model": Verb(
        "diffpolicy.cli.train_world_model", "learn what actions do, to imagine and refine policies in"
    ),
    "align": Verb(
        "diffpolicy.cli.align", "fine-tune digits, images or a chunk policy on rewards or comparisons"
    ),
    "refine": Verb("diffpolicy.cli.refine", "make a policy better in a frozen world model, and judge it"),
    "pipeline": Verb(
        "diffpolicy.cli.pipeline", "collect, train, learn a world model, refine, evaluate", stages=STAGES
    ),
    "calibrate": Verb(
        "diffpolicy.cli.calibrate", "measure how far a chunk policy's last plan serves its next one"
    ),
    "evaluate": Verb("diffpolicy.cli.evaluate", "roll out a policy, write its certificate and report"),
    "serve": Verb("diffpolicy.cli.serve", "answer the observations of robots with action chunks"),
    "export": Verb("diffpolicy.cli.export", "write a policy as a checked folder that plays without torch"),
    "demo-robot": Verb(
        "diffpolicy.cli.demo_robot", "move an arm in MuJoCo in real time by a served policy, shielded"
    ),
    "replay": Verb("diffpolicy.cli.replay", "tell what a robot's black box recorded", "argparse"),
    "bench": Verb(
        "diffpolicy.cli.bench", "measure the speed of training and acting on this machine", "hydra", "bench"
    ),
    "benchmark": Verb(
        "diffpolicy.cli.benchmark", "run a suite of tasks, arms and seeds and tabulate it", "hydra", "suite"
    ),
}
