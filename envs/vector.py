"""Many environments of one task at once, spread over worker processes."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

import envs
from envs.errors import MissingSimulatorError, WorkerError
from envs.registry import Task

Images = dict[str, NDArray[np.uint8]]  # by camera, (n, H, W, 3); empty where a task has no pictures
# observations, rewards, terminated, truncated, costs, successes, final observations: one row per environment
Outcome = tuple[NDArray[Any], ...]
Seeds = list[int] | list[None]


class EnvironmentGroup:
    """The environments of one process, stepped one after the other."""

    def __init__(self, task: Task, count: int, autoreset: bool) -> None:
        self._envs = [envs.make(task.id) for _ in range(count)]
        self._autoreset = autoreset
        self._observations = np.zeros((count, task.observation_size), np.float32)
        self._images: Images = {}
        self._terminated = np.zeros(count, bool)
        self._truncated = np.zeros(count, bool)

    def reset(self, seeds: Seeds, options: dict[str, Any] | None) -> tuple[NDArray[np.float32], Images]:
        """Start an episode in every environment and return the observations (count, O)."""
        for index, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            self._observations[index], info = env.reset(seed=seed, options=options)
            self._see(index, info)
        self._terminated[:] = False
        self._truncated[:] = False
        return self._observations.copy(), self._seen()

    def step(self, actions: NDArray[Any]) -> tuple[Outcome, Images]:
        """Step every environment; a finished one starts again, or is left alone without auto-reset."""
        rewards = np.zeros(len(self._envs))
        costs = np.zeros(len(self._envs), np.float32)
        successes = np.zeros(len(self._envs), bool)
        final = self._observations.copy()
        for index, env in enumerate(self._envs):
            if not self._autoreset and (self._terminated[index] or self._truncated[index]):
                continue
            final[index], rewards[index], terminated, truncated, info = env.step(actions[index])
            costs[index], successes[index] = info["cost"], info.get("success", False)
            self._terminated[index], self._truncated[index] = terminated, truncated
            self._observations[index] = final[index]
            if self._autoreset and (terminated or truncated):
                self._observations[index], info = env.reset()
            self._see(index, info)
        finished = self._terminated.copy(), self._truncated.copy()
        return (self._observations.copy(), rewards, *finished, costs, successes, final), self._seen()

    def call(self, method: str, rows: Sequence[int], arguments: tuple[Any, ...]) -> list[Any]:
        """Call a method of the environments `rows` without their wrappers."""
        return [getattr(self._envs[row].unwrapped, method)(*arguments) for row in rows]

    def _see(self, index: int, info: dict[str, Any]) -> None:
        for camera, picture in info.get("images", {}).items():
            if camera not in self._images:
                self._images[camera] = np.zeros((len(self._envs), *picture.shape), picture.dtype)
            self._images[camera][index] = picture

    def _seen(self) -> Images:
        return {camera: pictures.copy() for camera, pictures in self._images.items()}

    def close(self) -> None:
        """Release the environments."""
        for env in self._envs:
            env.close()


class _Part(Protocol):
    """Some of the environments: `start` a method, start the other parts too, then `finish` it."""

    def start(self, method: str, *arguments: Any) -> None: ...
    def finish(self) -> Any: ...
    def close(self) -> None: ...


class _InProcess:
    def __init__(self, group: EnvironmentGroup) -> None:
        self._group = group

    def start(self, method: str, *arguments: Any) -> None:
        self._result = getattr(self._group, method)(*arguments)

    def finish(self) -> Any:
        return self._result

    def close(self) -> None:
        self._group.close()


class _Worker:
    def __init__(self, task: Task, first: int, count: int, autoreset: bool) -> None:
        # spawn, not fork: a fork copies locks that other threads (torch's, for one) may hold.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._name = f"environments {first} to {first + count - 1} of {task.name}"
        arguments = (theirs, task, count, autoreset, self._name)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def start(self, method: str, *arguments: Any) -> None:
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise self._died() from error

    def finish(self) -> Any:
        try:
            result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(result, Exception):
            raise result
        return result

    def _died(self) -> WorkerError:
        self._process.join(1.0)
        return WorkerError(
            f"The process that ran {self._name} ended by itself (exit code {self._process.exitcode}). "
            "A negative code is a signal; -9 often means that memory ran out: try fewer environments."
        )

    def close(self) -> None:
        self._connection.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, task: Task, count: int, autoreset: bool, name: str) -> None:
    """Run one worker until the other end of the pipe is closed, on purpose or because the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        group = EnvironmentGroup(task, count, autoreset)
        connection.send(None)
        while True:
            method, arguments = connection.recv()
            connection.send(getattr(group, method)(*arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except MissingSimulatorError as error:
        connection.send(error)
    except Exception as error:
        message = f"{type(error).__name__} in {name}: {error}\n\nIn the worker:\n{traceback.format_exc()}"
        connection.send(WorkerError(message))


class ParallelEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """`num_envs` environments of one task; see `envs.make_vector`."""

    def __init__(self, task: Task, num_envs: int, workers: int | None, autoreset: bool) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is at least 1, not {num_envs}.")
        if workers is not None and workers < 0:
            raise ValueError(f"workers is at least 0 (0: in this process), not {workers}.")
        self.num_envs = num_envs
        mode = AutoresetMode.SAME_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (task.observation_size,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (task.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._parts: list[_Part] = []
        wanted = (os.cpu_count() or 1) if workers is None else workers
        if wanted == 0:
            self._slices = [slice(0, num_envs)]
            self._parts.append(_InProcess(EnvironmentGroup(task, num_envs, autoreset)))
            return
        bounds = np.linspace(0, num_envs, min(wanted, num_envs) + 1).astype(int).tolist()
        self._slices = [slice(first, last) for first, last in pairwise(bounds)]
        for rows in self._slices:
            self._parts.append(_Worker(task, rows.start, rows.stop - rows.start, autoreset))
        self._finish()

    def _finish(self) -> list[Any]:
        try:
            return [part.finish() for part in self._parts]
        except Exception:
            self.close()  # the other workers' answers are lost, so there is nothing to go on with
            raise

    def _all(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        if self.closed:
            raise WorkerError(
                "These environments are closed, by close() or after an earlier error; make new ones."
            )
        try:
            for part, own in zip(self._parts, arguments, strict=True):
                part.start(method, *own)
        except Exception:
            self.close()
            raise
        return self._finish()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every environment; return observations (n, O) and infos as `step` does of "images".

        An integer seeds environment i with seed + i, a list gives each its own. Raises ValueError for a
        list of another length.
        """
        seeds: list[Any]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + index for index in range(self.num_envs)]
        else:
            seeds = [None if value is None else int(value) for value in seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"There are {len(seeds)} seeds for {self.num_envs} environments.")
        parts = self._all("reset", [(seeds[rows], options) for rows in self._slices])
        observations, images = zip(*parts, strict=True)
        return np.concatenate(observations), _named(images)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment with `actions` (n, A).

        Returns observations (n, O), rewards (n,), terminated (n,), truncated (n,) and infos with "cost"
        (n,) float32, "success" (n,) bool and "final_observation" (n, O): where this step led, which only differs
        from the observations where an episode ended and the next one began. Image tasks add "images", for every
        camera the pictures (n, H, W, 3) uint8 that belong to the observations. Raises WorkerError if an environment
        fails, ValueError for another shape.
        """
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"Actions have the shape {actions.shape}; {self.action_space.shape} is needed.")
        parts = self._all("step", [(actions[rows],) for rows in self._slices])
        outcomes, images = zip(*parts, strict=True)
        joined = [np.concatenate(arrays) for arrays in zip(*outcomes, strict=True)]
        observations, rewards, terminated, truncated, costs, successes, final = joined
        infos = {"cost": costs, "success": successes, "final_observation": final} | _named(images)
        return observations, rewards, terminated, truncated, infos

    def call(self, method: str, rows: Sequence[int], *args: Any) -> list[Any]:
        """Call a method of the environments `rows`, with the same arguments; one answer for each, in their order.

        The environments are those of the simulator, without wrappers: `call("teleport", [3], seed)`. Raises
        WorkerError if one fails, IndexError for a row that is not there.
        """
        if any(not 0 <= row < self.num_envs for row in rows):
            raise IndexError(f"rows={list(rows)}, but there are {self.num_envs} environments.")
        own = [[row for row in rows if part.start <= row < part.stop] for part in self._slices]
        shifted = [[row - part.start for row in mine] for part, mine in zip(self._slices, own, strict=True)]
        parts = self._all("call", [(method, mine, args) for mine in shifted])
        answers = {
            row: answer
            for mine, answered in zip(own, parts, strict=True)
            for row, answer in zip(mine, answered, strict=True)
        }
        return [answers[row] for row in rows]

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers."""
        for part in getattr(self, "_parts", []):
            part.close()


def _named(images: Sequence[Images]) -> dict[str, Any]:
    """Return {"images": the parts' pictures joined by camera}, or nothing where there are none."""
    if not images[0]:
        return {}
    return {"images": {camera: np.concatenate([part[camera] for part in images]) for camera in images[0]}}
