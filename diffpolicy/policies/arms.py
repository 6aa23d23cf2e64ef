"""Names of the ways to turn a trained chunk model into actions: sampler, warm start, guard, actions executed."""

import re
from dataclasses import dataclass
from typing import Literal

from diffpolicy.diffusion import GaussianProcess, Sampler, leading, trailing
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.rti import WarmStart

Kind = Literal["cold", "warm", "reuse", "streaming"]
Solver = Literal["ddpm", "ddim", "dpm_solver", "heun"]
SOLVERS: dict[str, Solver] = {"ddpm": "ddpm", "ddim": "ddim", "dpm": "dpm_solver", "heun": "heun"}
_NAME = re.compile(r"(?P<body>[a-z0-9_]+?)(?:_from_(?P<cold>[a-z0-9_]+?))?(?P<guard>_guard)?(?:@(?P<h>\d+))?")
_COLD = re.compile(r"(?P<leading>leading_)?(?P<solver>ddpm|ddim|dpm|heun)_(?P<steps>\d+)")
_WARM = re.compile(r"(?P<kind>rti|warm|warm_sde|soft)_(?P<levels>\d+(?:_\d+)*)")
_STREAMING = re.compile(r"streaming(?:_(?P<steps>\d+))?")
GRAMMAR = (
    "ddpm_K, ddim_K, dpm_K, heun_K (K trailing steps; leading_ddim_K for the other spacing), rti_2_1_0, "
    "warm_60_30_10, warm_sde_60_30_10, soft_20_10_3, reuse (these five may go on with _from_ddpm_100, say, for "
    "how they start cold, then _guard), streaming, streaming_K; then @h: actions executed per decision"
)


@dataclass(frozen=True)
class ColdStart:
    """A sampler from pure noise: `steps` levels of the process, spaced "trailing" or "leading"."""

    solver: Solver
    steps: int
    spacing: Literal["trailing", "leading"] = "trailing"

    def sampler(self, process: GaussianProcess, clip: float | None) -> Sampler:
        """Return the sampler over `process`; PolicyError when it has fewer levels than steps."""
        if not 1 <= self.steps <= process.levels:
            raise PolicyError(
                f"{self.steps} denoising steps; this process has {process.levels} levels, so 1 to that"
            )
        spaced = trailing if self.spacing == "trailing" else leading
        return Sampler(process, self.solver, spaced(process.levels, self.steps), clip=clip)


DEFAULT_COLD = ColdStart("ddim", 10)


@dataclass(frozen=True)
class ChunkArm:
    """One way to act with a chunk model.

    cold       every decision from pure noise, by `cold`
    warm       from the last chunk, shifted, by `warm`; `cold` at the first decision and when the guard calls for it
    reuse      the last chunk, shifted, as it is; `cold` when it has been used up
    streaming  a buffer whose noise rises along the horizon; `steps` evaluations for every `execute` actions, None
               for one at every level, as published

    `execute` is the number of actions executed per decision, None for the model's own execution horizon.
    """

    name: str
    kind: Kind
    cold: ColdStart = DEFAULT_COLD
    warm: WarmStart | None = None
    guard: bool = False
    execute: int | None = None
    steps: int | None = None


def parse_arm(name: str) -> ChunkArm:
    """Return the arm of a name such as "ddim_3@8" or "rti_5_3_1_0_guard"; PolicyError says what names there are.

    `rti_` and `soft_` arms execute one action per decision unless told otherwise: what they are for.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise _unknown(name)
    body, guard = parts["body"], parts["guard"] is not None
    execute = int(parts["h"]) if parts["h"] else None
    if execute == 0:
        raise PolicyError(f"arm {name!r} executes no action; write @1 or more")
    if found := _WARM.fullmatch(body):
        single = found["kind"] == "rti"
        levels = tuple(int(level) for level in found["levels"].split("_"))
        eta = 1.0 if found["kind"] == "warm_sde" else 0.0
        warm = WarmStart(levels, single_index=single, eta=eta, commit=found["kind"] == "soft")
        execute = execute or (1 if single or warm.commit else None)
        return ChunkArm(name, "warm", _cold(parts["cold"], name), warm, guard, execute)
    if body == "reuse":
        return ChunkArm(name, "reuse", _cold(parts["cold"], name), None, guard, execute)
    if guard or parts["cold"]:
        raise PolicyError(f"arm {name!r}: only rti, warm, warm_sde, soft and reuse start from the last chunk")
    if found := _STREAMING.fullmatch(body):
        steps = int(found["steps"]) if found["steps"] else None
        if steps == 0:
            raise PolicyError(f"arm {name!r} takes no denoising step; write streaming_1 or more")
        return ChunkArm(name, "streaming", execute=execute, steps=steps)
    return ChunkArm(name, "cold", _cold(body, name), execute=execute)


def _cold(body: str | None, name: str) -> ColdStart:
    if body is None:
        return DEFAULT_COLD
    found = _COLD.fullmatch(body)
    if found is None:
        raise _unknown(name)
    return ColdStart(
        SOLVERS[found["solver"]], int(found["steps"]), "leading" if found["leading"] else "trailing"
    )


def _unknown(name: str) -> PolicyError:
    return PolicyError(f"no arm {name!r}; names are {GRAMMAR}")
