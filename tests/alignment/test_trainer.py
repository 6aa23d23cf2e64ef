"""The trainer goes on bit for bit wherever it was cut, loses nothing with a reward, and refuses unsound batches."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
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
    Decay,
    Experience,
    Fixed,
    Gathered,
    Model,
    Needs,
    Objective,
    Online,
    OnlineConfig,
    Owned,
    Part,
    Rated,
    Reward,
    Rewards,
    Roles,
    Rollout,
    Term,
)
from diffpolicy.alignment.objectives import DDPO, NFT, SFT, DiffusionDPO
from diffpolicy.diffusion import StepRule, rectified_flow, trailing
from diffpolicy.training import FeedbackError, TrainingError

UPDATES = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=draw)

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        out: Tensor = self.layers(torch.cat([noisy, level[:, None] / 100], dim=1))
        return out


class Right(Reward):
    """The first coordinate; `broken` makes it fail, or return something else, from that call on."""

    def __init__(self, broken: int | None = None, instead: Rewards | None = None) -> None:
        self.broken, self.instead, self.calls = broken, instead, 0

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        self.calls += 1
        if self.broken is not None and self.calls >= self.broken:
            if self.instead is not None:
                return self.instead
            raise FeedbackError("the reward's server does not answer")
        return Rewards(samples[:, 0])


class Paths(Objective[Rated]):
    """Learns from recorded steps: pulls predictions at the path's states to its end, more for better samples."""

    @property
    def needs(self) -> Needs:
        return Needs(path=True, rewards=True, old=True, ema=True, guided=True)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        path, clean = batch.rollout.path, batch.rollout.clean
        assert path is not None
        for state in path.states[:2]:
            noise = torch.randn(state.shape, generator=generator)
            level = torch.full((len(state),), 50)
            prediction = roles["train"](state + 0.1 * noise, level, None) - roles["ema"](state, level, None)
            yield Part((batch.advantages * (prediction - clean).square().mean(1)).mean(), {"seen": 1.0})


def model() -> Model:
    return Model(rectified_flow(100), trailing(100, 5), (2,), CopiedRoles(Net()))


def demonstrations(count: int = 20) -> Rollout:
    clean = torch.randn(count, 2, generator=torch.Generator().manual_seed(2))
    return Rollout(clean, None, torch.zeros(count, dtype=torch.int64))


def aligner(kind: str, reward: Reward | None = None, **options: Any) -> Aligner:
    made, config = (
        model(),
        OnlineConfig(groups=2, group_size=6, advantages="buffer" if kind == "paths" else "global"),
    )
    objectives: dict[str, Objective[Any]] = {
        "matching": NFT(made.matcher(draws=2)),
        "paths": Paths(),
        "pairs": DiffusionDPO(made.matcher(draws=2)),
    }
    terms = [Term(objectives[kind], Online(made, reward or Right(), objectives[kind], config))]
    if kind == "matching":
        terms.append(Term(SFT(made.matcher(draws=1)), Fixed(demonstrations(), 6), 0.1))
    chosen = {"iterations": 3, "updates": UPDATES, "learning_rate": 1e-2} | options
    return Aligner(made, terms, AlignConfig(**chosen))


OPTIONS: dict[str, Any] = {"checkpoint_every": 1, "log_every": 1, "progress": False}


def run(learner: Aligner, folder: Path) -> None:
    training.run(learner, folder, {}, **OPTIONS)


def states_agree(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(states_agree(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(states_agree, one, other))
    return bool(one == other)


def last_state(folder: Path) -> Any:
    last = training.latest_checkpoint(folder)
    assert last is not None
    return training.read_training_state(last)


def die_in_update(kind: str, folder: Path, when: int) -> None:
    torch.set_num_threads(1)
    learner = aligner(kind)
    whole = learner.update

    def update(step: int) -> dict[str, Tensor]:
        if step == when:
            whole(step)  # what it did is lost with the process
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(step)

    learner.update = update  # type: ignore[method-assign]
    run(learner, folder)


@pytest.mark.parametrize("kind", ["matching", "paths", "pairs"])
def test_a_run_killed_amid_an_iteration_ends_as_if_it_had_not_been(kind: str, tmp_path: Path) -> None:
    whole = aligner(kind)
    run(whole, tmp_path / "whole")
    child = multiprocessing.get_context("fork").Process(
        target=die_in_update, args=(kind, tmp_path / "killed", UPDATES + 1)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert last_state(tmp_path / "killed")["waiting"][0]  # minibatches were still to be learnt from
    run(aligner(kind), tmp_path / "killed")
    assert states_agree(last_state(tmp_path / "whole"), last_state(tmp_path / "killed"))
    assert not torch.equal(whole.model()["layers.0.weight"], Net().layers[0].weight)


NAN, SHORT = Rewards(torch.full((12,), torch.nan)), Rewards(torch.zeros(3))


@pytest.mark.parametrize(
    ("instead", "says"),
    [(None, "does not answer"), (NAN, "is nan for sample 0"), (SHORT, r"\(3,\) for 12 samples")],
)
def test_a_broken_reward_costs_nothing(instead: Rewards | None, says: str, tmp_path: Path) -> None:
    options = OPTIONS | {"checkpoint_every": 1000}
    learner = aligner("paths", Right(3, instead))
    with pytest.raises(FeedbackError, match=says):
        training.run(learner, tmp_path / "broken", {}, **options)
    stored = training.latest_checkpoint(tmp_path / "broken")
    assert stored is not None
    assert stored.name == f"step-{2 * UPDATES:08d}"
    assert torch.equal(
        training.read_checkpoint(stored).model["layers.0.weight"], learner.model()["layers.0.weight"]
    )
    training.run(aligner("paths"), tmp_path / "broken", {}, **options)
    training.run(aligner("paths"), tmp_path / "whole", {}, **options)
    assert states_agree(last_state(tmp_path / "whole"), last_state(tmp_path / "broken"))


def test_a_broken_second_term_leaves_the_first_as_it_was() -> None:
    class Failing(Experience):
        def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
            raise FeedbackError("no demonstrations")

    made = model()
    online = Online(made, Right(), Paths(), OnlineConfig(groups=1, group_size=6, advantages="buffer"))
    learner = Aligner(made, [Term(Paths(), online), Term(SFT(made.matcher()), Failing())], AlignConfig())
    before = learner.state()["generator"].clone()
    with pytest.raises(FeedbackError, match="no demonstrations"):
        learner.update(0)
    assert torch.equal(learner.state()["generator"], before)
    assert online.state()["buffer"] == {}
    assert learner.calls == 0


def test_a_reward_that_fails_within_a_loss_costs_nothing_either() -> None:
    class Failing(Paths):
        def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
            yield from super().parts(batch, roles, generator)
            if fails:
                raise FeedbackError("no gradient now")

    def learner() -> Aligner:
        made, objective = model(), Failing()
        online = Online(made, Right(), objective, OnlineConfig(groups=2, group_size=6, advantages="buffer"))
        return Aligner(made, [Term(objective, online)], AlignConfig(updates=UPDATES))

    one, other = learner(), learner()
    for step in range(UPDATES + 2):
        fails = True
        with pytest.raises(FeedbackError, match="no gradient"):
            one.update(step)
        assert states_agree(one.state(), other.state())
        fails = False
        one.update(step)
        other.update(step)


class Given(Experience):
    """One batch, again and again."""

    def __init__(self, batch: Any, group_size: int | None = None) -> None:
        self.batch, self._size = batch, group_size

    @property
    def group_size(self) -> int | None:
        return self._size

    def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
        return Gathered(self.batch, {})


def rated(advantages: Tensor) -> Rated:
    rollout = demonstrations(len(advantages))._replace(group=torch.tensor([0, 0, 0, 1, 1]))
    return Rated(rollout, torch.zeros(len(advantages)), advantages)


@pytest.mark.parametrize(
    ("batch", "size", "says"),
    [
        (rated(torch.ones(5)), 3, "group 1 has 2 of 3"),
        (rated(torch.tensor([1.0, 1.0, torch.inf, 1.0, 1.0])), None, "not finite"),
    ],
)
def test_unsound_batches_are_refused(batch: Rated, size: int | None, says: str) -> None:
    made = model()
    learner = Aligner(made, [Term(NFT(made.matcher()), Given(batch, size))], AlignConfig())
    with pytest.raises(FeedbackError, match=says):
        learner.update(0)
    assert torch.equal(learner.model()["layers.0.weight"], Net().layers[0].weight)


def test_an_objective_can_refuse_the_first_batch_only() -> None:
    class Strict(SFT):
        def check(self, batch: Rollout, roles: Roles) -> None:
            raise TrainingError("the ratio is not 1")

    made, given = model(), Given(demonstrations()._replace(clean=torch.zeros(0, 2)))
    learner = Aligner(made, [Term(Strict(made.matcher()), given)], AlignConfig(updates=1))
    learner.update(0)  # an empty batch, of ties say, shows nothing, and teaches nothing
    given.batch = demonstrations()
    with pytest.raises(TrainingError, match="ratio"):
        learner.update(1)
    began = Aligner(made, [Term(SFT(made.matcher()), given)], AlignConfig(updates=1))
    began.update(0)
    learner.load_state(began.state())
    learner.update(1)


def test_a_reference_that_moved_is_refused(tmp_path: Path) -> None:
    learner = aligner("matching")
    with torch.no_grad():
        learner.model_to_align.roles.tensors("reference")["layers.0.bias"] += 1e-3
    with pytest.raises(TrainingError, match="reference has moved"):
        run(learner, tmp_path)
    state = aligner("matching").state()
    state["reference"] = "another"
    with pytest.raises(TrainingError, match="another reference"):
        aligner("matching").load_state(state)


def test_old_and_average_follow_their_schedules_exactly() -> None:
    old, ema = Decay(0.2, 0.5), Decay(0.1, 0.9, delay=1)
    assert [old.at(i) for i in (1, 2, 3, 9)] == pytest.approx([0.2, 0.4, 0.5, 0.5])
    assert [ema.at(i) for i in (1, 2, 3)] == pytest.approx([0.0, 0.1, 0.2])
    learner = aligner("paths", old=old, ema=ema, updates=2)
    roles = learner.model_to_align.roles
    expected = {name: roles.tensors("train")["layers.0.weight"].detach().clone() for name in ("old", "ema")}
    for step in range(6):
        learner.update(step)
        if step % 2:
            train = roles.tensors("train")["layers.0.weight"].detach()
            for name, decay in (("old", old), ("ema", ema)):
                kept = decay.at((step + 1) // 2)
                expected[name] = kept * expected[name] + (1.0 - kept) * train
        for name, tensor in expected.items():
            torch.testing.assert_close(roles.tensors(name)["layers.0.weight"], tensor, rtol=0, atol=1e-6)


class Squares(Objective[Rollout]):
    """`mean (prediction - clean)^2` without noise, in two parts, so that gradients can be compared exactly."""

    needs = Needs()

    def parts(self, batch: Rollout, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        for level in (20, 60):
            prediction = roles["train"](batch.clean, torch.full((len(batch.clean),), level), None)
            yield Part((prediction - batch.clean).square().mean(), {"level": float(level)})


def gradients(terms: Sequence[tuple[float, Rollout]], **options: Any) -> dict[str, Tensor]:
    made = model()
    config = AlignConfig(updates=1, gradient_clip=1e9, **options)
    logs = Aligner(made, [Term(Squares(), Given(batch), weight) for weight, batch in terms], config).update(0)
    found = {
        str(index): each.grad for index, each in enumerate(made.roles.parameters()) if each.grad is not None
    }
    return found | {name: logs[name] for name in ("loss", "gradient_norm")}


@pytest.mark.parametrize("microbatch", [1, 7, 19])
def test_microbatches_change_memory_and_nothing_else(microbatch: int) -> None:
    whole = gradients([(1.0, demonstrations())])
    cut = gradients([(1.0, demonstrations())], microbatch=microbatch)
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=1e-6)


def test_terms_add_up_by_their_weights() -> None:
    first, anchor = demonstrations(), demonstrations(8)
    both = gradients([(1.0, first), (0.25, anchor)])
    one, other = gradients([(1.0, first)]), gradients([(1.0, anchor)])
    for name in both.keys() - {"gradient_norm"}:
        torch.testing.assert_close(both[name], one[name] + 0.25 * other[name], rtol=1e-5, atol=1e-6)


def test_of_equal_names_the_main_terms_are_logged() -> None:
    class Counting(Squares):
        def parts(self, batch: Rollout, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
            for part in super().parts(batch, roles, generator):
                yield Part(part.loss, {"count": float(len(batch.clean))})

    terms = [Term(Counting(), Given(demonstrations(count))) for count in (7, 9)]
    assert Aligner(model(), terms, AlignConfig(updates=1)).update(0)["count"] == 7.0


def test_trees_are_not_cut_and_batches_are_large_enough() -> None:
    made = model()
    objective, rule = DDPO(made.process, StepRule("flow_sde")), StepRule("flow_sde")
    trees = Online(made, Right(), objective, OnlineConfig(3, 4, rule=rule, splits=(0, 1)))
    for microbatch in (3, 6):
        with pytest.raises(ValueError, match="a multiple of 4"):
            Aligner(made, [Term(objective, trees)], AlignConfig(microbatch=microbatch))
    norms = []
    for whole in (None, 4, 8):
        fresh, config = model(), AlignConfig(updates=1, microbatch=whole)
        online = Online(fresh, Right(), objective, OnlineConfig(3, 4, rule=rule, splits=(0, 1)))
        norms.append(float(Aligner(fresh, [Term(objective, online)], config).update(0)["gradient_norm"]))
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-4)
    pairs = DiffusionDPO(made.matcher())
    for term, says in (
        (Term(objective, trees), "3 trees cannot be cut into 7"),
        (Term(pairs, Online(made, Right(), pairs, OnlineConfig(2, 6))), "6 samples cannot"),
        (Term(SFT(made.matcher()), Fixed(demonstrations(), 5)), "5 samples cannot"),
    ):
        with pytest.raises(ValueError, match=says):
            Aligner(made, [term], AlignConfig(updates=7))


class Offset(Objective[Rollout]):
    """Fits an offset of its own and leaves the denoiser alone."""

    def __init__(self) -> None:
        self.module = nn.Linear(1, 2)

    @property
    def needs(self) -> Needs:
        return Needs(frozen=True)

    @property
    def owned(self) -> dict[str, Owned]:
        return {"offset": Owned(self.module, 0.1)}

    def parts(self, batch: Rollout, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        predicted = roles["train"](batch.clean, torch.full((len(batch.clean),), 50), None)
        yield Part((predicted + self.module(torch.ones(1)) - batch.clean).square().mean(), {})


def test_a_frozen_denoiser_stays_as_it_is_while_owned_modules_learn(tmp_path: Path) -> None:
    def learner() -> Aligner:
        torch.manual_seed(0)
        return Aligner(
            model(), [Term(Offset(), Given(demonstrations()))], AlignConfig(iterations=40, updates=1)
        )

    trained = learner()
    before = float(trained.update(0)["loss"])
    for step in range(1, 40):
        loss = float(trained.update(step)["loss"])
    assert loss < 0.9 * before
    roles = trained.model_to_align.roles
    assert roles.checksum("train") == roles.checksum("reference")
    assert "owned.0.offset.weight" in trained.model()
    other = learner()
    other.load_state(trained.state())
    assert states_agree(other.model(), trained.model())


def test_pairs_that_are_all_ties_teach_nothing_and_do_no_harm() -> None:
    class Even(Reward):
        def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
            return Rewards(torch.zeros(len(samples)))

    learner = aligner("pairs", Even())
    logs = [learner.update(step) for step in range(2 * UPDATES)]
    assert all(each["ties"] == 1.0 for each in logs)
    assert torch.equal(learner.model()["layers.0.weight"], Net().layers[0].weight)


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"iterations": 0}, {"updates": 0}, {"microbatch": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match="alignment has"):
            AlignConfig(**wrong)
    with pytest.raises(ValueError, match="decay"):
        Decay(maximum=2.0)
