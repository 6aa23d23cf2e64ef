"""Acts with a chunk model: a cold sample, a warm start from the last chunk, or the last chunk as it is."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffpolicy.policies.arms import ChunkArm
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.freezing import Freezing
from diffpolicy.policies.guard import Guard
from diffpolicy.policies.inference import ChunkDenoiser, Committed, CompiledInference, Inference
from diffpolicy.policies.observing import acting_device, observed
from diffpolicy.policies.policy import ActionChunk, Memory, Observation, Plan
from diffpolicy.policies.rti import Discrete, residual, shift


class ChunkPolicy:
    """One arm of a chunk model as a policy; every row of a batch decides for itself whether to start cold.

    `guard` says when the last chunk no longer fits; `freezing` how a chunk is made to agree with actions that are
    executed whatever it says; `sampling` gives the compiled form of an inference (None: run the model as it is).
    Raises PolicyError when the model cannot play the arm.
    """

    def __init__(
        self,
        model: ChunkDenoiser,
        arm: ChunkArm,
        *,
        clip: float | None = 1.0,
        guard: Guard | None = None,
        discrete: Discrete | None = None,
        freezing: Freezing = "inpaint",
        sampling: Callable[[Inference], CompiledInference] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.arm, self.guard, self.discrete = model, arm, guard, discrete
        self.freezing, self.device = freezing, acting_device(model, device)
        self.observation_horizon = model.observation_horizon
        self.execute = executed(model, arm)
        self.ahead = model.prediction_horizon - (model.observation_horizon - 1)
        if arm.kind == "streaming":
            raise PolicyError(f"arm {arm.name!r} is for StreamingPolicy")
        if arm.guard != (guard is not None):
            raise PolicyError(
                f"arm {arm.name!r} has {'a' if arm.guard else 'no'} guard: calibrate the model for its thresholds and "
                f"give them with, and only with, arms named _guard"
            )
        if guard is not None and len(guard.usual[0]) != model.observation_size:
            raise PolicyError(
                f"the guard was calibrated for observations of {len(guard.usual[0])} numbers, the model sees "
                f"{model.observation_size}: calibrate it on its own task"
            )
        self.cold = Inference(model, arm.cold.sampler(model.process, clip))
        self.warm = None
        if arm.warm is not None:
            if arm.warm.commit and self.execute == self.ahead:
                raise PolicyError(
                    f"arm {arm.name!r} executes whole chunks: nothing of a plan is left to commit to"
                )
            # Beyond this a guess only repeats its last action, which is nothing to commit to.
            reach = min(model.execution_horizon, self.ahead - self.execute)
            self.warm = Inference(model, arm.warm.sampler(model.process, clip), arm.warm, reach)
        self._compiled: dict[bool, CompiledInference] = {}  # by: begins warm
        if sampling is not None:
            inferences = [self.cold] if self.warm is None else [self.cold, self.warm]
            self._compiled = {each.warm is not None: sampling(each) for each in inferences}

    @property
    def evaluations_per_step(self) -> float:
        """Denoiser evaluations per control step once under way, cold starts that a guard adds left out."""
        if self.arm.kind == "reuse":
            return self.cold.sampler.evaluations / (self.ahead // self.execute * self.execute)
        return (self.warm or self.cold).sampler.evaluations / self.execute

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs; the same seed gives the same actions."""
        return Memory(torch.Generator(self.device).manual_seed(seed))

    @torch.no_grad()
    def act(
        self, observation: Observation, memory: Memory, *, elapsed: int | None = None, frozen: int = 0
    ) -> tuple[ActionChunk, Memory]:
        """Return the next actions (B, execute, A) and what to remember.

        `elapsed` counts the control steps since the last decision (default: the actions executed per decision);
        the first `frozen` actions of the last plan are executed whatever this decision says. Raises PolicyError for
        observations that `observed` refuses.
        """
        elapsed = self.execute if elapsed is None else elapsed
        with torch.inference_mode(False):  # guidance differentiates, also where the caller switched that off
            seen = observed(observation, memory, self.model, self.device)
            decision = _Decision(self, seen, memory, elapsed, frozen)
            chunk, evaluations, cold, stalled = decision.made()
        actions = self.actions(chunk)[:, : self.execute]
        answer = ActionChunk(actions, evaluations=evaluations, cold=cold)
        return answer, Memory(memory.generator, Plan(chunk, seen.newest, stalled))

    @torch.no_grad()
    def actions(self, chunk: Tensor) -> Tensor:
        """Return the actions (B, Tp - (To-1), A) in [-1, 1] of a chunk (B, Tp, A), from the decision on."""
        ahead = chunk[:, self.observation_horizon - 1 :]
        return self.model.to_actions(ahead if self.discrete is None else self.discrete.execute(ahead))

    def infer(
        self,
        inference: Inference,
        observation: Observation,
        noise: Tensor,
        guess: Tensor | None,
        committed: Committed | None,
        rows: Tensor,
    ) -> Tensor:
        """Return chunks of some rows (B,) bool, from a compiled form if there is one and nothing is committed to."""
        compiled = self._compiled.get(inference.warm is not None)
        if compiled is not None and committed is None:
            return compiled(observation.state, noise, guess)[rows]  # made for all rows: its batch is fixed
        if not rows.all():
            observation, noise = observation.rows(rows), noise[:, rows]
            guess = None if guess is None else guess[rows]
            committed = None if committed is None else committed.rows(rows)
        return inference(observation, noise, guess, committed)


class _Decision:
    """One decision of a policy for a batch: which rows start cold, and the chunks of all."""

    def __init__(
        self, policy: ChunkPolicy, seen: Observation, memory: Memory, elapsed: int, frozen: int
    ) -> None:
        self.policy, self.seen, self.elapsed, self.frozen = policy, seen, elapsed, frozen
        self.plan, self.batch = memory.plan, len(seen.state)
        # Two seeds a decision, whatever its rows need, so that no row's noise depends on what another one does.
        source = memory.generator
        seeds = torch.randint(2**62, (2,), generator=source, device=source.device).tolist()
        self.warm_seed, self.cold_seed = (int(seed) for seed in seeds)

    def made(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return chunks (B, Tp, A), evaluations (B,), cold starts (B,) bool and stalled decisions (B,)."""
        policy, plan = self.policy, self.plan
        device = self.seen.state.device
        everywhere = torch.ones(self.batch, dtype=torch.bool, device=device)
        evaluations = torch.zeros(self.batch, dtype=torch.int64, device=device)
        stalled = torch.zeros_like(evaluations)
        if plan is None:
            return (
                self._cold(everywhere, None),
                evaluations + policy.cold.sampler.evaluations,
                everywhere,
                stalled,
            )
        guess = shift(plan.chunk, self.elapsed)
        cold, chunk, stalled = self._unfit(plan), guess, plan.stalled
        if policy.warm is not None and not cold.all():
            chunk = self._place(chunk, ~cold, self._warm(policy.warm, ~cold, guess))
            evaluations = torch.where(cold, 0, policy.warm.sampler.evaluations)
        if policy.guard is not None and policy.warm is not None:
            # What was frozen is the guess by construction, and says nothing.
            free = min(policy.observation_horizon - 1 + self.frozen, guess.shape[1] - 1) if self.frozen else 0
            distance = residual(chunk[:, free:], guess[:, free:], self.elapsed)
            change = policy.guard.change(plan.state, self.seen.newest, self.elapsed)
            stalled = policy.guard.stall(stalled, distance, change)
            cold = cold | (distance > policy.guard.residual)
        elif policy.arm.kind == "reuse":
            stalled = stalled + self.elapsed
        if cold.any():
            chunk = self._place(chunk, cold, self._cold(cold, guess))
            evaluations = evaluations + torch.where(cold, policy.cold.sampler.evaluations, 0)
        return chunk, evaluations, cold, torch.where(cold, 0, stalled)

    def _unfit(self, plan: Plan) -> Tensor:
        """Return the rows (B,) bool whose last plan is known not to serve before anything is computed."""
        policy, guard = self.policy, self.policy.guard
        cold = torch.full((self.batch,), policy.arm.kind == "cold", device=plan.chunk.device)
        if policy.arm.kind == "reuse":
            cold = cold | (plan.stalled + self.elapsed + policy.execute > policy.ahead)
        if guard is not None:
            jumped = guard.change(plan.state, self.seen.newest, self.elapsed) > guard.jump
            self.seen = _without_jumps(self.seen, jumped, guard)
            cold = cold | jumped
            if policy.warm is not None:
                cold = cold | guard.gave_up(plan.stalled)
        return cold

    def _warm(self, inference: Inference, rows: Tensor, guess: Tensor) -> Tensor:
        discrete = self.policy.discrete
        begun = guess if discrete is None else discrete.guess(guess)
        return self._infer(inference, rows, self.warm_seed, begun, guess)

    def _cold(self, rows: Tensor, plan: Tensor | None) -> Tensor:
        return self._infer(self.policy.cold, rows, self.cold_seed, None, plan)

    def _infer(
        self, inference: Inference, rows: Tensor, seed: int, guess: Tensor | None, plan: Tensor | None
    ) -> Tensor:
        """Return new chunks of some rows (B,) bool; the noise is drawn for all, so that rows do not touch."""
        model = inference.model
        generator = torch.Generator(self.policy.device).manual_seed(seed)
        shape = (self.batch, model.prediction_horizon, model.action_size)
        noise = inference.sampler.draw(shape, generator)
        committed = None
        if plan is not None and self.frozen > 0:
            # A plan that a guard has just refused binds where it is executed anyway, and nowhere else.
            refused = guess is None and self.policy.guard is not None
            how = "inpaint" if refused else self.policy.freezing
            committed = Committed(plan, self.elapsed, self.frozen, how)
        return self.policy.infer(inference, self.seen, noise, guess, committed, rows)

    @staticmethod
    def _place(chunk: Tensor, rows: Tensor, new: Tensor) -> Tensor:
        if rows.all():
            return new
        placed = chunk.clone()
        placed[rows] = new
        return placed


def _without_jumps(observation: Observation, jumped: Tensor, guard: Guard) -> Observation:
    """Return what is seen where, before a jump, the world has always been as it was after it.

    What was seen before would otherwise pass for a velocity: now, in the rows (B,) bool that `jumped`, and for as long
    as an earlier jump is still among the steps seen.
    """
    state, newest = observation.state, observation.state.shape[1] - 1
    for step in range(1, newest):
        earlier = guard.change(state[:, step - 1], state[:, step], 1) > guard.jump
        observation = _begun_at(observation, earlier, step)
    return _begun_at(observation, jumped, newest)


def _begun_at(observation: Observation, rows: Tensor, step: int) -> Observation:
    """Return the observation, in some rows (B,) bool, with all steps before `step` like that one."""
    if not rows.any():
        return observation

    def still(seen: Tensor) -> Tensor:
        chosen = rows.view(-1, *(1,) * (seen.ndim - 1))
        begun = torch.where(chosen, seen[:, step : step + 1], seen[:, :step])
        return torch.cat([begun, seen[:, step:]], dim=1)

    images = observation.images
    return Observation(
        still(observation.state),
        None if images is None else {name: still(seen) for name, seen in images.items()},
    )


def executed(model: ChunkDenoiser, arm: ChunkArm) -> int:
    """Return the actions that `arm` executes per decision; PolicyError when the model predicts fewer."""
    wanted = arm.execute or model.execution_horizon
    ahead = model.prediction_horizon - (model.observation_horizon - 1)
    if wanted > ahead:
        raise PolicyError(f"arm {arm.name!r} executes {wanted} actions; the model predicts {ahead} ahead")
    return wanted
