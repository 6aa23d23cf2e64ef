from __future__ import annotations

import hashlib
import resource
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from diffpolicy.data import DownloadError, Progress, Published, cache_folder, download, fetch, sha256

CONTENT = bytes(range(256)) * 4000
NAME = "data.hdf5"


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /good/, at most 300 kB a connection at /cut/, and /once/ only once.

    /html/ is a web page, everything else is 404.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.sends_length = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is part of these tests."""

    def url(self, folder: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{folder}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        folder = self.path.split("/")[1]
        content = self.server.content
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if folder not in ("good", "cut", "once", "html"):
            self.send_error(404)
            return
        if folder == "once" and len(self.server.asked) > 1:
            self.send_error(503)
            return
        same = self.headers.get("If-Range") in (None, tag)
        first = (
            int(asked.removeprefix("bytes=").removesuffix("-"))
            if asked and self.server.ranges and same
            else 0
        )
        if first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if self.server.sends_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", tag)
        self.send_header("Content-Type", "text/html" if folder == "html" else "application/octet-stream")
        self.end_headers()
        last = first + 300_000 if folder in ("cut", "once") else None
        self.wfile.write(content[first:last])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_arrives_with_its_hash_and_progress(server: Server, tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = fetch(
        NAME, tmp_path / "new", sources=[server.url("good")], expected_size=len(CONTENT), progress=seen.append
    )
    assert path.read_bytes() == CONTENT
    assert (
        tmp_path / "new" / f"{NAME}.sha256"
    ).read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n"
    assert {file.name for file in path.parent.iterdir()} == {NAME, f"{NAME}.sha256"}
    assert seen[-1] == Progress(len(CONTENT), len(CONTENT), 0.0)
    assert sha256(path) == hashlib.sha256(CONTENT).hexdigest()


def test_a_cut_connection_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    assert fetch(NAME, tmp_path, sources=[server.url("cut")]).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch(NAME, tmp_path, sources=[server.url("once")])
    assert (tmp_path / f"{NAME}.part").stat().st_size == 300_000
    server.asked.clear()
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch(NAME, tmp_path, sources=[server.url("once")])
    assert server.asked[0][1] == "bytes=300000-"
    assert (tmp_path / f"{NAME}.part").stat().st_size == 600_000


def test_a_source_that_is_down_does_not_cost_the_part_of_another(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(NAME, tmp_path, sources=[server.url("once"), server.url("missing")])
    assert (tmp_path / f"{NAME}.part").stat().st_size == 300_000


def test_a_part_of_another_version_is_not_continued(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        fetch(NAME, tmp_path, sources=[server.url("once")])
    server.content = CONTENT[::-1]
    server.asked.clear()
    with pytest.raises(DownloadError):
        fetch(NAME, tmp_path, sources=[server.url("once")])
    assert (tmp_path / f"{NAME}.part").read_bytes() == server.content[:300_000]


def test_a_part_of_another_source_is_not_continued(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        fetch(NAME, tmp_path, sources=[server.url("once")])
    assert fetch(NAME, tmp_path, sources=[server.url("good")]).read_bytes() == CONTENT
    assert server.asked[-1] == (f"/good/{NAME}", None)


def test_a_server_that_cannot_resume_is_read_from_the_beginning(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    with pytest.raises(DownloadError, match="ended after 300000 of 1024000 bytes; call again"):
        fetch(NAME, tmp_path, sources=[server.url("cut")])
    assert len(server.asked) == 2


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_complete_or_overlong_part_is_recognised(server: Server, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + extra)
    (tmp_path / f"{NAME}.part.from").write_text(f"{server.url('good')}{NAME}\n")
    assert fetch(NAME, tmp_path, sources=[server.url("good")]).read_bytes() == CONTENT
    assert len(server.asked) == (2 if extra else 1)


@pytest.mark.parametrize(("first", "reason"), [("missing", "HTTP 404"), ("html", "web page")])
def test_the_next_source_is_tried(server: Server, tmp_path: Path, first: str, reason: str) -> None:
    sources = [server.url(first), server.url("good")]
    assert fetch(NAME, tmp_path, sources=sources).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == [f"/{first}/{NAME}", f"/good/{NAME}"]
    with pytest.raises(DownloadError, match=reason):
        fetch("other", tmp_path, sources=sources[:1])


def test_a_wrong_size_is_refused_before_anything_is_written(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="has 1024000 bytes, 5 were expected"):
        fetch(NAME, tmp_path, sources=[server.url("good")], expected_size=5)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_only_the_caller_knows(server: Server, tmp_path: Path) -> None:
    server.sends_length = False
    with pytest.raises(DownloadError, match="pass expected_size"):
        fetch(NAME, tmp_path, sources=[server.url("good")])
    assert fetch(NAME, tmp_path, sources=[server.url("good")], expected_size=len(CONTENT)).exists()
    with pytest.raises(DownloadError, match="sent 1024000 bytes instead of 1000"):
        fetch("other", tmp_path, sources=[server.url("good")], expected_size=1000)
    assert not (tmp_path / "other.part").exists()


def test_no_network_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        source = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(
            DownloadError, match=r"not reachable.*without a network, put the file into"
        ) as raised:
            fetch(NAME, tmp_path, sources=[source])
    assert "\n" not in str(raised.value)


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(NAME, tmp_path, sources=[server.url("good")])
    server.asked.clear()
    assert fetch(NAME, tmp_path, sources=[server.url("good")]) == tmp_path / NAME
    assert server.asked == []
    with pytest.raises(DownloadError, match="move it away"):
        fetch(NAME, tmp_path, sources=[server.url("good")], expected_size=3)


def test_a_changed_file_is_named_and_not_replaced(server: Server, tmp_path: Path) -> None:
    path = fetch(NAME, tmp_path, sources=[server.url("good")])
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="does not have the SHA-256"):
        fetch(NAME, tmp_path, sources=[server.url("good")])
    assert path.read_bytes() == b"mine"
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match="published anew"):
        fetch(NAME, tmp_path, sources=[server.url("good")])
    assert not path.exists()


def test_a_full_disk_is_named(server: Server, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(DownloadError, match="cannot be written: File too large"):
            fetch(NAME, tmp_path, sources=[server.url("good")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", ["../data.hdf5", "a/b", "", ".."])
def test_only_plain_names_are_fetched(tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadError, match="not a plain file name"):
        fetch(name, tmp_path)


def test_a_named_dataset_has_homes_of_its_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = (server.url("gone") + "other.zip", server.url("good") + "mirror/some.zip")
    monkeypatch.setattr(download, "PUBLISHED", {"pusht": Published("replay.zarr.zip", homes)})
    path = fetch("PushT", tmp_path)
    assert path == tmp_path / "replay.zarr.zip"
    assert path.read_bytes() == CONTENT
    assert [asked for asked, _ in server.asked] == ["/gone/other.zip", "/good/mirror/some.zip"]
    assert fetch("pusht") == cache_folder() / "datasets/replay.zarr.zip"


def test_push_t_is_published_as_a_replay_buffer() -> None:
    push_t = download.PUBLISHED["pusht"]
    assert push_t.file_name.endswith(".zarr.zip")
    assert all(url.startswith("https://") and url.endswith(".zip") for url in push_t.urls)


def test_the_hash_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    for folder, names in (("one", ("a", "b/c")), ("same", ("b/c", "a")), ("renamed", ("a", "b/d"))):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name[0])
    assert sha256(tmp_path / "one") == sha256(tmp_path / "same") != sha256(tmp_path / "renamed")
