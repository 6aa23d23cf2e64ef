"""Fetches published dataset files: resumes, checks the size, remembers the SHA-256."""

from __future__ import annotations

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .image_cache import cache_folder

SOURCES = (
    "https://huggingface.co/datasets/YYY-45/DSRL/resolve/main/",
    "http://data.offline-saferl.org/download/",
)
"""DSRL's present home and its first one, in the order tried."""


class Published(NamedTuple):
    """A dataset that goes by a name: what its file is called here, and the URLs of its public homes."""

    file_name: str
    urls: tuple[str, ...]


_PUSHT = Published(
    "pusht_cchi_v7_replay.zarr.zip",
    (
        "https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip",
        "https://huggingface.co/datasets/ChaoyiPan/mip-dataset/resolve/main/pusht/pusht_cchi_v7_replay.zarr.zip",
    ),
)
PUBLISHED: Mapping[str, Published] = {"pusht": _PUSHT, "pushtimage": _PUSHT}
"""Demonstrations by the lower-case name of their task; Push-T: 206 human episodes (Chi et al. 2023), never unzipped."""

READ_BYTES = 1 << 18
REPORT_SECONDS = 0.5


class DownloadError(RuntimeError):
    """A file could not be fetched; the message is one sentence that says why and what to do."""


class Progress(NamedTuple):
    """Bytes on disk, bytes in all, and estimated seconds left (None while nothing has come)."""

    done: int
    total: int
    seconds_left: float | None


Report = Callable[[Progress], None]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits; of a folder, that of its files' names and hashes."""
    path = Path(path)
    if path.is_dir():
        files = sorted(
            (file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()
        )
        listed = "".join(f"{sha256(file)}  {name}\n" for name, file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    name: str,
    folder: str | Path | None = None,
    *,
    expected_size: int | None = None,
    sources: Sequence[str] = SOURCES,
    progress: Report | None = None,
    timeout: float = 30.0,
) -> Path:
    """Downloads a file from the first of its homes that works and returns its path in `folder`.

    A name in PUBLISHED ("pusht") has homes of its own, any other is the name of a file at the `sources` (URL
    prefixes). `folder` is the user's cache unless named. What arrives goes to NAME.part, where a later call
    resumes; the finished file's SHA-256 to NAME.sha256. A file that is there is checked against `expected_size`
    (bytes) and its recorded hash, never replaced. Raises DownloadError.
    """
    published = PUBLISHED.get(name.lower())
    file_name = published.file_name if published else name
    if Path(file_name).name != file_name or file_name in ("", ".", ".."):
        raise DownloadError(f"{file_name!r} is not a plain file name.")
    urls = published.urls if published else tuple(source + file_name for source in sources)
    target = Path(cache_folder() / "datasets" if folder is None else folder) / file_name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _check_size(target, expected_size)
            return _record(target, target)
        reasons = []
        for url in urls:
            try:
                part = _download(url, target, expected_size, progress, timeout)
            except _SourceError as error:
                reasons.append(f"{url.removesuffix(file_name)}: {error}")
                continue
            return _record(part, target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"{error.strerror or error}"
        raise DownloadError(f"{target} cannot be written: {what}.") from error
    raise DownloadError(
        f"{file_name} could not be fetched ({'; '.join(reasons)}); without a network, put the file into "
        f"{target.parent} yourself or name a local path."
    )


class _SourceError(Exception):
    """This source does not give the file; another might."""


class _Part:
    """NAME.part, and in NAME.part.from the URL and version (ETag) that its bytes came from."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._origin = target.with_name(target.name + ".part.from")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def resume(self, url: str) -> tuple[int, str]:
        """Where to go on and with which version; (0, "") when the bytes are not known to be this URL's."""
        known = self._origin.read_text().split("\n") if self._origin.exists() else []
        return (self.size(), known[1]) if len(known) == 2 and known[0] == url else (0, "")

    def start(self, url: str, version: str) -> None:
        self.path.unlink(missing_ok=True)
        self._origin.write_text(f"{url}\n{version}")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)

    def finish(self) -> Path:
        self._origin.unlink(missing_ok=True)
        return self.path


def _download(url: str, target: Path, expected: int | None, report: Report | None, timeout: float) -> Path:
    """The complete NAME.part. A cut connection is taken up again as long as each try brings something."""
    part = _Part(target)
    while True:
        before, version = part.resume(url)
        total = _request(url, part, (before, version), expected, report, timeout)
        size = part.size()
        if size == total:
            return part.finish()
        if size > total:
            part.drop()
            raise _SourceError(f"sent {size} bytes instead of {total}")
        if size <= before:
            raise _SourceError(f"the connection ended after {size} of {total} bytes; call again to resume")


def _request(
    url: str, part: _Part, at: tuple[int, str], expected: int | None, report: Report | None, timeout: float
) -> int:
    """Appends to NAME.part from `at` (byte, version) while the connection lasts; gives its full size."""
    start, version = at
    headers = {"User-Agent": "diffpolicy", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version  # another version is then sent from its beginning
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing after our last byte: complete, or not our file
            if _content_range(error.headers.get("Content-Range"))[1] == start and expected in (None, start):
                return start
            part.drop()
            return _request(url, part, (0, ""), expected, report, timeout)
        raise _SourceError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _SourceError(f"not reachable ({getattr(error, 'reason', error)})") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _SourceError("answered with a web page, not a file")
        first: int | None = 0
        size: int | None = response.length
        if response.status == 206:
            first, size = _content_range(response.headers.get("Content-Range"))
        if first not in (0, start):
            raise _SourceError(f"answered a request from byte {start} with byte {first}")
        total = expected if size is None else size
        if total is None:
            raise _SourceError("does not say how many bytes the file has; pass expected_size")
        if expected not in (None, total):
            raise _SourceError(f"has {total} bytes, {expected} were expected")
        if first == 0:
            part.start(url, _strong(response.headers.get("ETag")))
        with part.path.open("ab") as file:
            _copy(response, file, first, total, report)
    return total


def _copy(response: Any, file: Any, start: int, total: int, report: Report | None) -> None:
    began = reported = time.monotonic()
    done = start
    while True:
        try:
            block = response.read(READ_BYTES)
        except (OSError, http.client.HTTPException):
            return  # a cut connection: the caller sees the size and resumes
        file.write(block)
        done += len(block)
        now = time.monotonic()
        if report is not None and (not block or now - reported >= REPORT_SECONDS):
            reported = now
            rate = (done - start) / max(now - began, 1e-9)
            report(Progress(done, total, (total - done) / rate if rate > 0 else None))
        if not block:
            return


def _strong(tag: str | None) -> str:
    """An ETag that stands for the same bytes, or nothing: weak ones may not be used to resume."""
    return "" if tag is None or tag.startswith("W/") or "\n" in tag else tag


def _content_range(value: str | None) -> tuple[int | None, int | None]:
    """First byte and full size of "bytes 5-9/10" or "bytes */10"."""
    text, _, total = (value or "").removeprefix("bytes ").partition("/")
    first = text.partition("-")[0]
    return (int(first) if first.isdigit() else None, int(total) if total.isdigit() else None)


def _check_size(path: Path, expected: int | None) -> None:
    size = path.stat().st_size
    if expected is not None and size != expected:
        raise DownloadError(
            f"{path} has {size} bytes, {expected} were expected: move it away to fetch it anew."
        )


def _record(source: Path, target: Path) -> Path:
    """Moves a finished file to its place and records its SHA-256, unless another hash is on record."""
    record = target.with_name(target.name + ".sha256")
    digest = sha256(source)
    known = record.read_text().split()[:1] if record.exists() else []
    if known and known[0] != digest:
        if source != target:
            source.unlink()
        raise DownloadError(
            f"{target} does not have the SHA-256 in {record.name}: it was changed or published anew; "
            f"nothing was replaced; move both files away to accept the new one."
        )
    if not known:
        record.write_text(f"{digest}  {target.name}\n")
    source.replace(target)
    return target
