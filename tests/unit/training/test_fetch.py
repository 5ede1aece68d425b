"""Fetching with real files and a real HTTP server on this machine; only the four files are small."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import random
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from trainer.errors import DataError, ExitCode
from trainer.training import fetch

REAL_FILES = fetch.FILES
REAL_FOLDERS = [fetch.PACKAGE_FOLDER, Path("~/.cache/fashion-mnist").expanduser()]
REAL_FOLDERS += [Path(os.environ["FASHION_MNIST_DIR"])] if os.environ.get("FASHION_MNIST_DIR") else []
TRAIN = "train-images-idx3-ubyte"
SIZES = dict(zip(REAL_FILES, (200_000, 500, 50_000, 100), strict=True))
CONTENT = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
PACKED = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in CONTENT.items()}
FACTS = {name: fetch.FileFacts(len(c), hashlib.sha256(c).hexdigest()) for name, c in CONTENT.items()}


class Mirror(http.server.ThreadingHTTPServer):
    """Serves PACKED; ``misbehave`` maps a path to what goes wrong with its next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(PACKED)
        self.misbehave: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.sent: Counter[str] = Counter()
        self.ranges = True
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        mirror: Mirror = self.server  # type: ignore[assignment]
        name, wanted = self.path.strip("/"), self.headers["Range"]
        mirror.requests.append((name, wanted))
        time.sleep(mirror.delay_s)
        wrongs = mirror.misbehave.get(name, [])
        wrong = wrongs.pop(0) if wrongs else ""
        if wrong.isdigit() or name not in mirror.files:
            self.send_error(int(wrong or 404))
            return
        body, start = mirror.files[name], 0
        if wanted and mirror.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if wrong == "silent":
            time.sleep(3)
        body = {"corrupt": body[:100] + b"x" + body[101:], "cut": body[: len(body) // 2], "silent": b""}.get(
            wrong, body
        )
        self.wfile.write(body)
        mirror.sent[name] += len(body)


@pytest.fixture
def mirrors():
    servers = [Mirror(), Mirror()]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Hide this machine's files and the mirrors: each test provides what it needs."""
    for name in ("cache", "tmp", "no-tools"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools"))
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "FILES", FACTS)
    monkeypatch.setattr(fetch, "PACKAGE_FOLDER", tmp_path / "package")
    monkeypatch.setattr(fetch, "MIRRORS", ())
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.01)
    monkeypatch.setattr(fetch, "TIMEOUT_S", 5.0)
    return tmp_path


@pytest.fixture
def cache(home):
    return home / "cache" / "fashion-mnist"


def use(monkeypatch, *mirrors):
    monkeypatch.setattr(fetch, "MIRRORS", tuple(mirror.url for mirror in mirrors))


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def found(data=None):
    log: list[str] = []
    return fetch.find_dataset(data, log.append), log


def failure(data=None):
    log: list[str] = []
    with pytest.raises(DataError) as error:
        fetch.find_dataset(data, log.append)
    assert error.value.exit_code is ExitCode.DATA
    assert "\n" not in str(error.value)
    return str(error.value), log


def is_good(folder):
    return all((folder / name).read_bytes() == content for name, content in CONTENT.items())


def leftovers(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_places_are_tried_in_order_with_one_log_line_each(home, cache, mirrors, monkeypatch):
    use(monkeypatch, *mirrors)
    mirrors[0].files.clear()
    folder, log = found()
    assert folder == cache
    assert is_good(cache)
    starts = [f"cache {cache}", "package folder", f"mirror {mirrors[0].url}", f"mirror {mirrors[1].url}"]
    assert [line.startswith(start) for line, start in zip(log, starts, strict=True)] == [True] * 4
    assert "404" in log[2]
    assert leftovers(cache) == set(CONTENT)

    assert found() == (cache, [f"cache {cache}: the four files are there and verified"])
    assert len(mirrors[1].requests) == 4  # the cache was enough


def test_package_comes_before_mirrors_and_environment_before_cache(home, cache, mirrors, monkeypatch):
    use(monkeypatch, *mirrors)
    fill(home / "package", PACKED)
    folder, log = found()
    assert folder == cache
    assert [line.split()[0] for line in log] == ["cache", "package"]
    assert not mirrors[0].requests

    mine, other = fill(home / "mine", CONTENT), fill(home / "other", CONTENT)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(mine))
    assert found()[0] == mine
    assert found(other)[0] == other  # the argument comes before the environment


@pytest.mark.parametrize("damage", ["missing", "plain cut", "gz cut", "gz garbage", "wrong", "too long"])
def test_a_bad_given_folder_is_refused_and_no_other_place_is_tried(home, mirrors, monkeypatch, damage):
    use(monkeypatch, *mirrors)
    fill(home / "package", PACKED)
    given = fill(home / "given", PACKED if damage.startswith("gz") or damage == "missing" else CONTENT)
    bad, says = {
        "missing": (f"{TRAIN}.gz", f"{TRAIN} is missing"),
        "plain cut": (TRAIN, "truncated, 1,000 of 200,000 bytes"),
        "gz cut": (f"{TRAIN}.gz", "is truncated"),
        "gz garbage": (f"{TRAIN}.gz", "cannot be read"),
        "wrong": (TRAIN, f"sha256 {hashlib.sha256(bytes(200_000)).hexdigest()[:12]}…, not {FACTS[TRAIN].sha256[:12]}…"),
        "too long": (TRAIN, "too long, more than 200,000 bytes"),
    }[damage]
    path = given / bad
    content = {"wrong": bytes(200_000), "too long": CONTENT[TRAIN] + b"x", "gz garbage": b"<html>"}
    path.write_bytes(content.get(damage, path.read_bytes()[:1000]))
    if damage == "missing":
        path.unlink()
    for full_cache in (False, True):  # a good cache must not hide that the given folder is bad
        if full_cache:
            fill(home / "cache" / "fashion-mnist", CONTENT)
        message, log = failure(given)
        assert f"--data {given}" in message
        assert says in message
        assert "put the right file there" in message
        assert len(log) == 1
    assert not mirrors[0].requests
    monkeypatch.setenv("FASHION_MNIST_DIR", str(home / "nowhere"))
    assert "nowhere is not a folder" in failure()[0]


@pytest.mark.parametrize("below", ["FashionMNIST/raw", "raw", "."])
@pytest.mark.parametrize("content", [CONTENT, PACKED, {**CONTENT, **PACKED}], ids=["plain", "gz", "both"])
@pytest.mark.parametrize("by", ["--data", "FASHION_MNIST_DIR"])
def test_a_root_of_torchvision_is_a_folder_with_the_files(home, cache, monkeypatch, below, content, by):
    (home / "root" / below).mkdir(parents=True, exist_ok=True)
    files = fill(home / "root" / below, content)
    if by == "FASHION_MNIST_DIR":
        monkeypatch.setenv(by, str(home / "root"))
    folder = found(home / "root" if by == "--data" else None)[0]
    assert folder == (cache if content is PACKED else files)
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT


def test_what_is_here_is_found_without_fetching_it(home, cache, mirrors, monkeypatch):
    use(monkeypatch, *mirrors)
    assert fetch.find_here(None) is None
    assert not cache.exists()
    fill(home / "package", PACKED)
    assert fetch.find_here(None) == home / "package"
    assert not cache.exists()


def test_a_given_folder_may_hold_plain_or_gz_files_or_both(home, cache):
    plain = fill(home / "plain", CONTENT)
    assert found(plain)[0] == plain
    assert not cache.exists()  # used in place, without a copy
    fill(home / "package", CONTENT)
    assert found()[0] == home / "package"
    mixed = fill(home / "mixed", {TRAIN: CONTENT[TRAIN], **{n: c for n, c in PACKED.items() if TRAIN not in n}})
    folder, log = found(mixed)
    assert folder == cache
    assert is_good(cache)
    assert len(log) == 1
    before = (cache / TRAIN).stat().st_ino
    assert found(fill(home / "packed", PACKED))[0] == cache
    assert (cache / TRAIN).stat().st_ino == before  # was whole: nothing written again


def test_a_gzip_bomb_stops_early(home, monkeypatch):
    bomb = fill(home / "bomb", PACKED | {f"{TRAIN}.gz": gzip.compress(bytes(50_000_000))})
    monkeypatch.setattr(fetch, "CHUNK", 10_000)
    read = []
    whole_read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: read.append(n) or whole_read(self, n))
    assert "too long" in failure(bomb)[0]
    assert sum(read) <= 200_001


def test_an_interrupted_download_resumes_where_it_stopped(cache, mirrors, monkeypatch):
    use(monkeypatch, mirrors[0])
    name = f"{TRAIN}.gz"
    mirrors[0].misbehave[name] = ["cut"]
    assert is_good(found()[0])
    half = len(PACKED[name]) // 2
    assert [wanted for path, wanted in mirrors[0].requests if path == name] == [None, f"bytes={half}-"]
    assert mirrors[0].sent[name] == len(PACKED[name])


def test_a_later_process_resumes_a_download_from_another_mirror(cache, mirrors, monkeypatch):
    name = f"{TRAIN}.gz"
    use(monkeypatch, mirrors[0])
    mirrors[0].misbehave[name] = ["cut", "503", "503"]
    message, _ = failure()
    assert "503" in message
    assert "--data" in message
    assert fetch.PACKAGE in message
    assert leftovers(cache) == {f".{name.removesuffix('.gz')}.part.gz"}  # nothing under its final name
    use(monkeypatch, mirrors[1])
    assert is_good(found()[0])
    assert mirrors[1].requests[0] == (name, f"bytes={len(PACKED[name]) // 2}-")


def test_a_download_starts_over_if_the_server_ignores_range(cache, mirrors, monkeypatch):
    use(monkeypatch, mirrors[0])
    mirrors[0].ranges = False
    mirrors[0].misbehave[f"{TRAIN}.gz"] = ["cut"]
    assert is_good(found()[0])
    assert [wanted is None for path, wanted in mirrors[0].requests if TRAIN in path] == [True, False]


@pytest.mark.parametrize("rest", ["whole", "wrong"])
def test_status_416_means_the_partial_file_is_complete_or_wrong(cache, mirrors, monkeypatch, rest):
    use(monkeypatch, mirrors[0])
    packed = PACKED[f"{TRAIN}.gz"]
    fill(cache, {f".{TRAIN}.part.gz": packed if rest == "whole" else bytes(len(packed) + 9)})
    assert is_good(found()[0])
    ranges = [wanted for path, wanted in mirrors[0].requests if TRAIN in path]
    assert ranges == ([f"bytes={len(packed)}-"] if rest == "whole" else [f"bytes={len(packed) + 9}-", None])


def test_a_mirror_that_answers_503_is_tried_three_times(mirrors, monkeypatch):
    use(monkeypatch, *mirrors)
    mirrors[0].misbehave[f"{TRAIN}.gz"] = ["503"] * 9
    folder, log = found()
    assert is_good(folder)
    assert len(mirrors[0].requests) == 3
    assert "503" in log[2]
    assert "try 3 of 3" in log[2]


def test_a_silent_server_times_out_and_is_tried_again(mirrors, monkeypatch):
    use(monkeypatch, mirrors[0])
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.1)
    mirrors[0].misbehave[f"{TRAIN}.gz"] = ["silent"]
    start = time.monotonic()
    assert is_good(found()[0])
    assert time.monotonic() - start < 2.5


def test_nothing_is_retried_without_a_network(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(fetch, "BACKOFF_S", 60.0)
    monkeypatch.setattr(fetch, "MIRRORS", (f"http://127.0.0.1:{port}/", "http://mirror.invalid/"))

    def no_name(*args, **kwargs):
        if args[0] == "mirror.invalid":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(*args, **kwargs)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    _, log = failure()
    assert "refused" in log[2]
    assert "name resolution" in log[3]
    assert "apt-get cannot be run" in log[4]
    assert len(log) == 5


def test_a_corrupt_download_never_gets_its_final_name(cache, mirrors, monkeypatch):
    use(monkeypatch, mirrors[0])
    mirrors[0].misbehave[f"{TRAIN}.gz"] = ["corrupt"] * 3
    failure()
    assert leftovers(cache) == set()
    mirrors[0].misbehave[f"{TRAIN}.gz"] = ["corrupt"]  # once: the second try is good, and from the start
    assert is_good(found()[0])
    assert mirrors[0].requests[-4][1] is None


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_cached_file_is_removed_and_fetched_again(cache, mirrors, monkeypatch, damage):
    use(monkeypatch, mirrors[0])
    bad = CONTENT[TRAIN][:9] if damage == "cut" else bytes(len(CONTENT[TRAIN]))
    fill(cache, CONTENT | {TRAIN: bad})
    folder, log = found()
    assert is_good(folder)
    assert "so it was removed" in log[0]
    assert TRAIN in log[0]
    assert [path for path, _ in mirrors[0].requests] == [f"{TRAIN}.gz"]  # the good ones stayed
    fill(cache, {TRAIN: bad})
    use(monkeypatch)
    failure()
    assert not (cache / TRAIN).exists()


def test_a_private_temporary_folder_replaces_an_unwritable_cache(home, monkeypatch):
    fill(home / "package", PACKED)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")  # read-only even for root
    folder, log = found()
    assert folder == home / "tmp" / f"fashion-mnist-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "cannot be written" in log[0]
    assert str(folder) in log[1]
    assert len(log) == 3
    assert len(found()[1]) == 1  # and is then found at once

    folder.chmod(0o777)  # now anyone could change what is in it
    message, log = failure()
    assert "XDG_CACHE_HOME" in message
    assert "can write to it" in message


def test_a_relative_cache_folder_is_not_used(home, monkeypatch):
    fill(home / "package", PACKED)
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert found()[0].parent == home / "tmp"
    assert not (home / "relative").exists()


def test_a_complete_cache_is_used_even_if_it_is_read_only(home, cache, monkeypatch):
    fill(cache, CONTENT)
    cache.chmod(0o555)
    assert found()[0] == cache
    assert leftovers(cache) == set(CONTENT)
    assert not (cache / ".lock").exists()


@pytest.mark.parametrize("source", ["package", "mirror"])
def test_a_full_disk_is_an_error_and_leaves_nothing_behind(home, cache, mirrors, monkeypatch, source):
    if source == "package":
        fill(home / "package", PACKED)
    else:
        use(monkeypatch, mirrors[0])
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))  # a write past it fails as on a full disk
    try:
        message, _ = failure()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "XDG_CACHE_HOME" in message
    assert leftovers(cache) == set()


def test_four_processes_at_once_download_each_file_once(home, cache, mirrors):
    mirrors[0].delay_s = 0.05
    script = f"""
import sys
from pathlib import Path
from trainer.training import fetch
fetch.FILES = {{n: fetch.FileFacts(*f) for n, f in {[(n, (f.size, f.sha256)) for n, f in FACTS.items()]!r}}}
fetch.MIRRORS, fetch.PACKAGE_FOLDER = ({mirrors[0].url!r},), Path({str(home)!r}, "package")
print("ready", flush=True)
sys.stdin.read()  # all four start at the same time
print(fetch.find_dataset(None, lambda line: print(line, file=sys.stderr)))
"""
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, cwd=Path(__file__).parents[3], **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.close()
        process.stdin = None
    answers = [process.communicate(timeout=30) for process in processes]
    assert [out.strip() for out, _ in answers] == [str(cache)] * 4, answers
    assert Counter(path for path, _ in mirrors[0].requests) == dict.fromkeys(PACKED, 1)
    assert is_good(cache)
    assert any("waiting for another process" in said for _, said in answers)
    assert sum(said.endswith("the four files are there and verified\n") for _, said in answers) == 3


def fake_tool(home, name, script):
    tool = home / "no-tools" / name
    tool.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho {name} "$@" >> {home}/calls\n{script}\n')
    tool.chmod(0o755)


@pytest.mark.parametrize("lists", ["full", "empty"])
def test_the_apt_package_is_unpacked_with_fake_apt_get_and_dpkg(home, cache, lists):
    fill(home / "deb", PACKED)
    (home / "lists").mkdir()
    if lists == "full":
        (home / "lists" / "system").touch()
    # Like the real one: without lists, `download` fails; `update` fills the lists of the state folder it is given.
    fake_tool(
        home,
        "apt-get",
        f"""case "$*" in
*" update") case "$*" in *Dir::State=*) touch {home}/lists/private;; esac; exit 100;;
*" download dataset-fashion-mnist") ls {home}/lists | grep -q . || {{ echo 'E: none' >&2; exit 100; }}
  touch dataset-fashion-mnist_0_all.deb;;
esac""",
    )
    fake_tool(home, "dpkg-deb", f'mkdir -p "$3{home}"; cp -r {home}/deb "$3{home}/package"')
    folder, log = found()
    assert folder == cache
    assert is_good(cache)
    assert log[-1].startswith("apt package dataset-fashion-mnist: the four files are verified")
    calls = (home / "calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == ["apt-get"] * (1 if lists == "full" else 3) + ["dpkg-deb"]
    assert all("Dir::Cache=" in line for line in calls[:-1])  # nothing of the system's is written
    assert not list((home / "tmp").iterdir())


def test_a_failure_of_a_fake_apt_get_is_quoted(home):
    fake_tool(home, "apt-get", "echo 'W: hm' >&2; echo 'E: Unable to locate package' >&2; exit 100")
    message, log = failure()
    assert "apt-get failed (E: Unable to locate package)" in message
    assert len(log) == 3


def test_verify_names_the_file_and_the_fix(home):
    folder = fill(home / "files", CONTENT)
    fetch.verify(folder)
    (folder / TRAIN).unlink()
    with pytest.raises(DataError, match=rf"{folder}/{TRAIN} is missing; put the original file there"):
        fetch.verify(folder)


def test_the_real_files_match_the_pinned_hashes(cache, monkeypatch):
    real = next((f for f in REAL_FOLDERS if all(any(f.glob(f"{name}*")) for name in REAL_FILES)), None)
    if real is None:
        pytest.skip(f"Fashion-MNIST is in none of {', '.join(map(str, REAL_FOLDERS))}")
    monkeypatch.setattr(fetch, "FILES", REAL_FILES)
    folder, _ = found(real)
    fetch.verify(folder)
    assert (folder / TRAIN).read_bytes()[:16].hex() == "00000803" + "0000ea60" + "0000001c" * 2  # 60,000 of 28×28
