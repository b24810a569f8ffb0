"""Downloads from a real server are resumed, checked and put in place as a whole; offline, the error says what to do."""

import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from presurge.errors import FetchError, StorageError
from presurge.sources.public import Fetched, RemoteFile, fetch

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and the ranges requested so far."""

    content: bytes = CONTENT
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def remote(self, **changes: object) -> RemoteFile:
        known = {"file": "data.bin", "url": f"{self.url}/data.bin", "size": len(CONTENT), "sha256": DIGEST}
        return RemoteFile(**{**known, **changes})  # type: ignore[arg-type]

    def fetch(self, cache: Path, **changes: object) -> Fetched:
        return fetch(self.remote(**changes), cache, pause_seconds=0)


def handler_of(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", f"{site.url}/data.bin")
                self.end_headers()
                return
            asked = self.headers.get("Range")
            site.asked.append(asked)
            status = site.statuses.pop(0) if site.statuses else 200
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.ranges else 0
            if status == 200 and begin >= len(site.content) > 0:
                status = 416
            if status != 200:
                self.send_error(status)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(site.content) - begin))
            self.end_headers()
            end = begin + site.break_after.pop(0) if site.break_after else len(site.content)
            self.wfile.write(site.content[begin:end])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(site)) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield site
        server.shutdown()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_file_is_fetched_once(site: Site, tmp_path: Path) -> None:
    first, second = site.fetch(tmp_path), site.fetch(tmp_path)
    assert first == Fetched(path=tmp_path / "data.bin", downloaded=True)
    assert (second.path, second.downloaded) == (first.path, False)
    assert first.path.read_bytes() == CONTENT
    assert site.asked == [None]
    assert names_in(tmp_path) == {"data.bin"}


def test_a_dropped_connection_is_resumed(site: Site, tmp_path: Path) -> None:
    site.break_after = [300_000, 200_000]
    assert site.fetch(tmp_path).path.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_run_resumes_where_the_first_stopped(site: Site, tmp_path: Path) -> None:
    site.break_after = [100_000] * 4
    with pytest.raises(FetchError, match=r"broke off after 400,000 of 1,048,576 bytes"):
        site.fetch(tmp_path)
    assert names_in(tmp_path) == {"data.bin.part"}
    assert site.fetch(tmp_path).path.read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=400000-"
    assert names_in(tmp_path) == {"data.bin"}


def test_a_redirected_download_is_resumed(site: Site, tmp_path: Path) -> None:
    site.break_after = [300_000]
    assert site.fetch(tmp_path, url=f"{site.url}/moved").path.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-"]


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.break_after = False, [300_000]
    assert site.fetch(tmp_path).path.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-"]


def test_a_complete_part_is_checked_without_a_request(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert site.fetch(tmp_path).downloaded
    assert site.asked == []


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("part", [b"x" * 1000, CONTENT + b"more"])
def test_a_part_that_does_not_fit_is_downloaded_again(
    site: Site, tmp_path: Path, part: bytes, size: int | None
) -> None:
    (tmp_path / "data.bin.part").write_bytes(part)
    assert site.fetch(tmp_path, size=size).path.read_bytes() == CONTENT
    assert names_in(tmp_path) == {"data.bin"}


def test_a_corrupted_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.content = b"!" + CONTENT[1:]
    with pytest.raises(FetchError, match=f"what arrived has the SHA-256 .*{DIGEST} is published"):
        site.fetch(tmp_path)
    assert site.asked == [None]
    assert names_in(tmp_path) == set()


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(site: Site, tmp_path: Path) -> None:
    site.content = CONTENT[:-1]
    with pytest.raises(FetchError, match=r"offers 1,048,575 bytes, but the published file has 1,048,576"):
        site.fetch(tmp_path)
    assert names_in(tmp_path) == set()


def test_not_found_is_reported_at_once(site: Site, tmp_path: Path) -> None:
    site.statuses = [404] * 9
    with pytest.raises(FetchError, match="HTTP 404 Not Found") as caught:
        site.fetch(tmp_path)
    assert len(site.asked) == 1
    assert caught.value.where == f"{site.url}/data.bin"
    assert str(tmp_path / "data.bin") in str(caught.value)


def test_a_busy_server_gets_three_more_requests(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    assert site.fetch(tmp_path).downloaded
    site.statuses = [503] * 9
    with pytest.raises(FetchError, match="HTTP 503"):
        site.fetch(tmp_path / "other")
    assert len(site.asked) == 4 + 4


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/data.bin", "http://presurge.invalid/data.bin"])
def test_the_error_offline_names_the_file_and_where_to_put_it(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,presurge.invalid")
    remote = RemoteFile(file="data.bin", url=url, size=1_048_576, sha256=DIGEST)
    with pytest.raises(FetchError) as caught:
        fetch(remote, tmp_path, pause_seconds=0)
    message = str(caught.value)
    assert url in message
    assert "data.bin (1.0 MB)" in message
    assert f"{tmp_path / 'data.bin'}\n" in message
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert not fetch(remote, tmp_path).downloaded


def test_a_file_put_into_the_cache_by_hand_is_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(FetchError, match="is published") as caught:
        site.fetch(tmp_path)
    assert caught.value.where == str(tmp_path / "data.bin")
    (tmp_path / "data.bin").write_bytes(b"short")
    with pytest.raises(FetchError, match="has 5 bytes"):
        site.fetch(tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"short"
    assert site.asked == []


def test_progress_includes_the_part_that_was_there(site: Site, tmp_path: Path) -> None:
    told: list[tuple[str, float, str]] = []
    (tmp_path / "data.bin.part").write_bytes(CONTENT[: len(CONTENT) // 2])
    fetch(site.remote(), tmp_path, progress=lambda *words: told.append(words))
    assert told[0][1] > 0.5
    assert told[-1] == ("Fetching data.bin", 1.0, "1.0 MB of 1.0 MB")


def test_two_processes_share_one_download(site: Site, tmp_path: Path) -> None:
    fetched: list[Fetched] = []
    run: Callable[[], None] = lambda: fetched.append(site.fetch(tmp_path))  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.downloaded for one in fetched) == [False, False, False, True]
    assert len(site.asked) == 1


def test_a_full_disk_is_not_mistaken_for_a_broken_connection(site: Site, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        with pytest.raises(StorageError, match=r"(?i)no space"):
            site.fetch(disk)
        assert site.asked == [None]
        assert names_in(disk) == {"data.bin.part"}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        fetch(RemoteFile(file="a", url="http://127.0.0.1:1/a", sha256=DIGEST), tmp_path / "file")
