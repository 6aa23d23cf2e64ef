"""What the numbers in a task's observations and actions mean, where a policy can use it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Affine:
    """The map x -> matrix x + offset of a vector; `matrix` holds rows."""

    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]


@dataclass(frozen=True)
class Symmetry:
    """A change of the world that turns solutions into solutions: what it does to observations and to actions."""

    observation: Affine
    action: Affine


@dataclass(frozen=True)
class Body:
    """A body in the observation: the columns of its position, and of its angle [rad] where it has one."""

    position: tuple[int, ...]
    angle: int | None = None


@dataclass(frozen=True)
class Layout:
    """Meaning of columns; everything may be empty.

    `agent` are the observation columns of the agent's position; where actions are positions too, `agent_scale`
    and `agent_offset` take a position to action units (scale * position + offset), else `agent_scale` is None.
    `angles` are columns in [rad] that wrap; `bodies` what the agent acts upon; `discrete` the action columns that
    take two values (grippers); `symmetries` generate the task's mirror images.
    """

    agent: tuple[int, ...] = ()
    agent_scale: float | None = None
    agent_offset: float = 0.0
    angles: tuple[int, ...] = ()
    bodies: tuple[Body, ...] = ()
    discrete: tuple[int, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
