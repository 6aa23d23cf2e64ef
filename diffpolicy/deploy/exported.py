"""Policies that play by numpy: exported ones from their folder, without torch, and what all of them share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from diffpolicy.deploy.chunks import Chunk
from diffpolicy.deploy.errors import DeployError, ManifestError
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.run_policy import MANIFEST, Memory, Player, PlayError


class PlayedRuntime:
    """A `Runtime` whose decisions a `Player` makes, whatever computes its graphs."""

    def __init__(self, player: Player, manifest: Manifest) -> None:
        self.player, self._manifest = player, manifest

    @property
    def manifest(self) -> Manifest:
        """What the policy expects and gives."""
        return self._manifest

    def start(self, seed: int) -> Memory:
        """Return the memory of a fresh roll-out; noise is drawn in numpy from `seed`."""
        return self.player.start(seed)

    def act(
        self, observation: Mapping[str, NDArray[Any]], memory: Memory, *, elapsed: int | None = None
    ) -> tuple[Chunk, Memory]:
        """Return the next actions and what to remember, see `chunks.Runtime`."""
        try:
            actions, after, feasible, flags = self.player.act(observation, memory, elapsed)
        except PlayError as error:
            raise DeployError(str(error)) from error
        return Chunk(actions, feasible, flags), after


class ExportedPolicy(PlayedRuntime):
    """A folder written by `diffpolicy export`; of the format onnx it needs onnxruntime, of pt2 torch.

    Raises DeployError for a folder that is not whole, or not the one that was written: every file's SHA-256 is compared
    before it is used.
    """

    def __init__(self, folder: Path | str, threads: int = 1) -> None:
        folder = Path(folder)
        try:
            player = Player.open(folder, threads)
        except PlayError as error:
            raise DeployError(str(error)) from error
        try:
            manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
        except OSError as error:
            raise ManifestError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from error
        super().__init__(player, manifest)
