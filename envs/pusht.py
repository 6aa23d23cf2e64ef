"""Push-T: a round agent pushes a T-shaped block onto its outline; the simulator is gym-pusht's.

State (agent x, agent y, block x, block y, block angle) in [pixel] of a 512 x 512 arena and [rad]; the action is the
position that a controller draws the agent to. The reward is the covered share of the outline, 1 at 95 %, where the
episode ends. Source: Florence et al. 2021 ("Implicit Behavioral Cloning"), in the form of Chi et al. 2023
("Diffusion Policy").
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import MissingSimulatorError
from envs.layout import Affine, Body, Layout, Symmetry
from envs.manipulation import ManipulationEnv, Picture
from envs.registry import Task

CENTRE = 256.0  # of the arena [pixel], and half its side
PICTURE = 96  # [pixel], of the pictures that policies see
SHOWN = 256  # [pixel], of rendered pictures
# A jump of the block is one that a policy cannot overlook, and never lands on the agent (the T reaches 121 pixel from
# its origin, the agent has a radius of 15).
JUMP = 100.0  # [pixel]
CLEARANCE = 150.0  # [pixel]
WALLS = (10.0, 501.0)  # the free inside of the arena, clear of the walls [pixel]

# Arena and outline are their own mirror image in the diagonal x + y = 512, and so is the T in its own axis. Only the
# walls are not, by a pixel: they stand at 5 and 506.
_MIRROR = Symmetry(
    observation=Affine(
        matrix=(
            (0.0, -1.0, 0.0, 0.0, 0.0),
            (-1.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, -1.0, 0.0),
            (0.0, 0.0, -1.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, 0.0, -1.0),
        ),
        offset=(2 * CENTRE, 2 * CENTRE, 2 * CENTRE, 2 * CENTRE, np.pi / 2),
    ),
    action=Affine(matrix=((0.0, -1.0), (-1.0, 0.0)), offset=(0.0, 0.0)),
)


def _task(name: str, observation_size: int, image_size: int | None, layout: Layout) -> Task:
    return Task(
        id=f"{name}-v0",
        name=name,
        simulator="pusht",
        observation_size=observation_size,
        action_size=2,
        max_episode_steps=300,
        min_episode_reward=0.0,
        max_episode_reward=300.0,
        min_episode_cost=0.0,
        max_episode_cost=1.0,
        dataset_file="",
        binary_cost=True,
        score="best_reward",
        control_rate=10.0,
        action_low=0.0,
        action_high=2 * CENTRE,
        demonstrated=None if image_size is None else ("state[0:2]",),
        image_size=image_size,
        layout=layout,
    )


STATE_TASK = _task(
    "PushT",
    5,
    None,
    Layout(
        agent=(0, 1),
        agent_scale=1 / CENTRE,
        agent_offset=-1.0,
        angles=(4,),
        bodies=(Body(position=(2, 3), angle=4),),
        symmetries=(_MIRROR,),
    ),
)
# The mirror image of a picture is not a map of its observation, so that this task declares no symmetry.
IMAGE_TASK = _task("PushTImage", 2, PICTURE, Layout(agent=(0, 1), agent_scale=1 / CENTRE, agent_offset=-1.0))


class PushTEnv(ManipulationEnv):
    """Push-T from the state (5,), or with `image_size` from the agent's position (2,) and a picture.

    `reset(options={"state": five numbers})` starts with everything at rest exactly there. The picture, in
    `info["images"]["camera"]`, is (96, 96, 3) uint8 and shows no action.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  gymnasium's own type

    def __init__(self, raw: Any, task: Task, render_mode: str | None) -> None:
        super().__init__(task, render_mode)
        self.raw = raw
        self._sees_pictures = task.image_size is not None
        self._observed = task.observation_size

    @property
    def state(self) -> NDArray[np.float64]:
        """The state (5,): agent and block in [pixel], the block's angle in [0, 2 pi)."""
        state: NDArray[np.float64] = self.raw.get_obs()
        return state

    def teleport(self, seed: int) -> NDArray[np.float32]:
        """Move the block to a random place, at rest, and return what is observed there (O,).

        It moves by more than 100 pixel, to where it is inside the walls and more than 150 pixel from the agent.
        """
        random = np.random.default_rng(seed)
        agent, block = self.state[:2], self.state[2:4]
        while True:
            place = random.uniform(100.0, 400.0, 2)
            if np.linalg.norm(place - agent) <= CLEARANCE or np.linalg.norm(place - block) <= JUMP:
                continue
            self._place_block(place, random.uniform(-np.pi, np.pi))
            corners = self.raw.get_keypoints(self.raw._block_shapes)
            if corners.min() > WALLS[0] and corners.max() < WALLS[1]:
                return self.state[: self._observed].astype(np.float32)

    def _begin(self, seed: int | None, options: dict[str, Any]) -> NDArray[np.float64]:
        self.raw.reset(seed=seed)
        self.raw._last_action = None  # else the marker of the last episode's action would be drawn
        if "state" in options:
            state = np.array(options["state"], float)
            if state.shape != (5,) or not np.isfinite(state).all():
                raise ValueError(
                    f"A state is (x, y, block x, block y, block angle), not {options['state']!r}."
                )
            self.raw._setup()  # a new space, without the contacts of the random start
            self.raw.agent.position = tuple(state[:2])
            self._place_block(state[2:4], state[4])
        return self.state[: self._observed]

    def _advance(self, action: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, bool, bool]:
        state, reward, terminated, _, info = self.raw.step(CENTRE * (action + 1.0))
        return state[: self._observed], reward, terminated, info["is_success"]

    def _place_block(self, position: NDArray[np.float64], angle: float) -> None:
        # The angle first: setting it turns the block about its centre of gravity, away from the position.
        block = self.raw.block
        block.angle = float(angle)
        block.position = tuple(position)
        block.velocity, block.angular_velocity = (0.0, 0.0), 0.0
        block.update_position(block, 0.0)  # forgets the push that would still have freed it from a wall
        self.raw.space.reindex_shapes_for_body(block)
        self.raw.space.reindex_shapes_for_body(self.raw.agent)

    def _images(self) -> dict[str, Picture]:
        return {"camera": small_picture(self.raw._draw())} if self._sees_pictures else {}

    def render(self) -> Picture | None:
        """Return the arena as a (256, 256, 3) picture with a cross at the last action, or None without a mode."""
        if self.render_mode is None:
            return None
        picture: Picture = self.raw._get_img(self.raw._draw(), SHOWN, SHOWN, render_action=True)
        return picture


def small_picture(surface: Any) -> Picture:
    """Return a pygame surface as a (96, 96, 3) picture, the same that gym-pusht makes.

    It is scaled as it lies in memory; gym-pusht copies it into rows of red, green and blue first, which takes 20
    times as long.
    """
    import cv2

    bytes_of = np.frombuffer(surface.get_buffer(), np.uint8)
    blue_green_red = cv2.resize(bytes_of.reshape(*surface.get_size(), 4), (PICTURE, PICTURE))
    return np.asarray(blue_green_red[..., 2::-1].copy(), np.uint8)


def make(task: Task, render_mode: str | None) -> PushTEnv:
    """Make one of the two Push-T tasks; MissingSimulatorError if gym-pusht is not installed."""
    try:
        simulator = importlib.import_module("gym_pusht.envs.pusht").PushTEnv
    except ImportError as error:
        raise MissingSimulatorError(
            f"{task.name} needs gym-pusht, but {error}. Install the `robotics` extra: "
            "`pip install 'diffpolicy[robotics]'`."
        ) from error
    return PushTEnv(simulator(obs_type="state", render_mode="rgb_array"), task, render_mode)
