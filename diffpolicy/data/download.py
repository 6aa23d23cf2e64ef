"""Fetches published dataset files: resumes, checks the size, remembers the SHA-256."""

from __future__ import annotations

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = (
    "https://huggingface.co/datasets/YYY-45/DSRL/resolve/main/",
    "http://data.offline-saferl.org/download/",
)
"""DSRL's present home and its first one, in the order tried."""

READ_BYTES = 1 << 18
REPORT_SECONDS = 0.5


class DownloadError(RuntimeError):
    """A file could not be fetched; the message is one sentence that says why and what to do."""


class Progress(NamedTuple):
    """Bytes on disk, bytes in all (None when unknown) and estimated seconds left (None when unknown)."""

    done: int
    total: int | None
    seconds_left: float | None


Report = Callable[[Progress], None]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    file_name: str,
    folder: str | Path,
    *,
    expected_size: int | None = None,
    sources: Sequence[str] = SOURCES,
    progress: Report | None = None,
    timeout: float = 30.0,
) -> Path:
    """Downloads a file from the first source (URL prefix) that works and returns its path in `folder`.

    What arrives goes to NAME.part, where a later call resumes; the finished file's SHA-256 to NAME.sha256.
    A file that is there is checked against `expected_size` (bytes) and its recorded hash, never replaced.
    Raises DownloadError.
    """
    if Path(file_name).name != file_name or file_name in ("", ".", ".."):
        raise DownloadError(f"{file_name!r} is not a plain file name.")
    target = Path(folder) / file_name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _check_size(target, expected_size)
            return _record(target, target)
        reasons = []
        for source in sources:
            try:
                part = _download(source + file_name, target, expected_size, progress, timeout)
            except _SourceError as error:
                reasons.append(f"{source}: {error}")
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


def _download(url: str, target: Path, expected: int | None, report: Report | None, timeout: float) -> Path:
    """The complete NAME.part. A cut connection is taken up again as long as each try brings something."""
    part = target.with_name(target.name + ".part")
    origin = target.with_name(target.name + ".part.url")
    if not origin.exists() or origin.read_text() != url:
        part.unlink(missing_ok=True)  # half a file of another source must not be continued with this one
    origin.write_text(url)
    while True:
        before = part.stat().st_size if part.exists() else 0
        total = _request(url, part, before, expected, report, timeout)
        size = part.stat().st_size
        if total is None or size == total:
            break
        if size > total:
            part.unlink()
            raise _SourceError(f"sent {size} bytes instead of {total}")
        if size <= before:
            raise _SourceError(f"the connection ended after {size} of {total} bytes; call again to resume")
    origin.unlink()
    return part


def _request(
    url: str, part: Path, start: int, expected: int | None, report: Report | None, timeout: float
) -> int | None:
    """Appends to NAME.part from byte `start` while the connection lasts; the file's full size when known."""
    headers = {"User-Agent": "diffpolicy", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing after our last byte: complete, or not our file
            total = _content_range(error.headers.get("Content-Range"))[1]
            if total != start:
                part.unlink()
                return _request(url, part, 0, expected, report, timeout)
            return total
        raise _SourceError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _SourceError(f"not reachable ({getattr(error, 'reason', error)})") from error
    with response:
        length = response.headers.get("Content-Length")
        if response.status == 206:
            first, total = _content_range(response.headers.get("Content-Range"))
            if first != start:
                raise _SourceError(f"answered a request from byte {start} with byte {first}")
        else:
            start, total = 0, int(length) if length and length.isdigit() else None
        if expected is not None and total is not None and total != expected:
            raise _SourceError(f"has {total} bytes, {expected} were expected")
        total = expected if total is None else total
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, start, total, report)
    return total


def _copy(response: Any, file: Any, start: int, total: int | None, report: Report | None) -> None:
    began = reported = time.monotonic()
    done = start
    while True:
        try:
            block = response.read(READ_BYTES)
        except (OSError, http.client.HTTPException):
            return  # a cut connection: the caller sees the size and resumes
        if block:
            file.write(block)
            done += len(block)
        now = time.monotonic()
        if report is not None and (not block or now - reported >= REPORT_SECONDS):
            reported = now
            rate = (done - start) / max(now - began, 1e-9)
            report(Progress(done, total, (total - done) / rate if total is not None and rate > 0 else None))
        if not block:
            return


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
