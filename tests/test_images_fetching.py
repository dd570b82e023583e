"""Fetching image data sets from a server that the tests start on this machine, whole, damaged, hostile or failing."""

import dataclasses
import gzip
import hashlib
import io
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from filelock import FileLock
from test_images import cifar_records, write_idx, write_tiny

from simulator import cli, images
from simulator.images import ImageDataError, archives
from simulator.images.sets import SETS, Download


class Server:
    """Answers from a table: path -> list of (status, body, announced length), the last one for ever."""

    def __init__(self):
        self.answers, self.asked = {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                queue = outer.answers.get(self.path, [(404, b"", None)])
                status, body, length = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(self, path, body, status=200, length=None):
        self.answers.setdefault(path, []).append((status, body, length))

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    # The pauses before another try.
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    one = Server()
    yield one
    one.close()


def publish(server, monkeypatch, name, files, mirrors=("",)):
    """Let the set `name` consist of these files of the server; returns it."""
    downloads = []
    for file, content in files.items():
        for mirror in mirrors:
            server.serve(f"{mirror}/{file}", content)
        urls = tuple(f"{server.url}{mirror}/{file}" for mirror in mirrors)
        downloads.append(Download(file, len(content), hashlib.sha256(content).hexdigest(), urls))
    known = dataclasses.replace(SETS[name], downloads=tuple(downloads))
    monkeypatch.setitem(SETS, name, known)
    return known


def idx_files(tmp_path):
    write_idx(tmp_path / "published")
    return {file.name: file.read_bytes() for file in sorted((tmp_path / "published").iterdir())}


def tar_of(members):
    """A .tar.gz of (name or TarInfo, content)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(members):
    """A .zip of (name or ZipInfo, content)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members:
            zipped.writestr(name, content)
    return packed.getvalue()


def cifar_members():
    inside = "cifar-10-batches-bin"
    yield f"{inside}/batches.meta.txt", "\n".join(SETS["cifar10"].classes).encode() + b"\n\n"
    for k in range(1, 6):
        yield f"{inside}/data_batch_{k}.bin", cifar_records(2, seed=k)
    yield f"{inside}/test_batch.bin", cifar_records(3, seed=6)
    yield f"{inside}/readme.html", b"<html></html>"


def tiny_members(tmp_path):
    write_tiny(tmp_path / "published" / "tiny-imagenet-200")
    for file in sorted((tmp_path / "published").rglob("*")):
        if file.is_file():
            yield file.relative_to(tmp_path / "published").as_posix(), file.read_bytes()


def left_in(folder):
    """What is in a folder besides the locks of earlier fetches."""
    return sorted(one.name for one in folder.iterdir() if not one.name.endswith(".lock")) if folder.exists() else []


# ---- what is fetched can be loaded ----


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_arrive(server, monkeypatch, tmp_path, name):
    publish(server, monkeypatch, name, idx_files(tmp_path))
    said = []
    place = images.fetch(name, tmp_path / "data", said.append)
    assert place == tmp_path / "data" / name
    assert len(images.load(name, tmp_path / "data").x_train) == 6
    assert len(said) == len(server.asked) == 4
    assert left_in(tmp_path / "data") == [name]


def test_cifar_arrives(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "cifar10", {"cifar-10-binary.tar.gz": tar_of(cifar_members())})
    images.fetch("cifar10", tmp_path / "data")
    found = images.load("cifar10", tmp_path / "data")
    np.testing.assert_array_equal(found.y_train, [0, 1] * 5)
    assert left_in(tmp_path / "data") == ["cifar10"]


def test_tiny_imagenet_arrives(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "tiny-imagenet", {"tiny-imagenet-200.zip": zip_of(tiny_members(tmp_path))})
    images.fetch("tiny-imagenet", tmp_path / "data")
    assert left_in(tmp_path / "data") == ["tiny-imagenet-200"]
    assert len(images.load("tiny-imagenet", tmp_path / "data", tmp_path / "cache").x_train) == 6


def test_what_is_there_is_not_fetched_again(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    images.fetch("mnist", tmp_path / "data")
    said = []
    images.fetch("mnist", tmp_path / "data", said.append)
    assert len(server.asked) == 4
    assert said == [f"mnist is in {tmp_path}/data/mnist already"]


def test_without_a_folder_it_goes_to_the_users_own(server, monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    assert images.fetch("mnist") == tmp_path / "simulator" / "images" / "mnist"
    assert len(images.load("mnist").x_train) == 6


# ---- a network that fails ----


def test_another_try_after_a_failure(server, monkeypatch, tmp_path):
    files = idx_files(tmp_path)
    first = next(iter(files))
    server.serve(f"/{first}", b"", status=503)
    server.serve(f"/{first}", files[first][:100], length=len(files[first]))  # the connection breaks
    publish(server, monkeypatch, "mnist", files)
    images.fetch("mnist", tmp_path / "data")
    assert server.asked.count(f"/{first}") == 3
    assert len(images.load("mnist", tmp_path / "data").x_train) == 6


def test_the_next_publisher_after_the_last_try(server, monkeypatch, tmp_path):
    files = idx_files(tmp_path)
    for file in files:
        server.serve(f"/a/{file}", b"", status=404)
        server.answers[f"/a/{file}"] *= 9
    publish(server, monkeypatch, "mnist", files, mirrors=("/a", "/b"))
    images.fetch("mnist", tmp_path / "data")
    assert len(images.load("mnist", tmp_path / "data").x_train) == 6


def failing(status=200, body=None, length=None):
    """Damage a file that the server publishes: `body` of its content."""

    def damage(server, known):
        path = f"/{known.downloads[-1].file}"
        ((_, content, _),) = server.answers[path]
        server.answers[path] = [(status, content if body is None else body(content), length)]

    return damage


FAILURES = {
    "not found": (failing(404, lambda content: b"no such file"), "status 404"),
    "server error": (failing(500), "status 500"),
    "wrong content": (failing(body=lambda content: content[:-1] + b"?"), "not the published file, whose SHA-256 is"),
    "a page of HTML": (failing(body=lambda content: b"<html>"), "not the published file"),
    "nothing": (failing(body=lambda content: b""), "not the published file"),
    "cut on the way": (failing(body=lambda content: content[:50], length=200), "ChunkedEncodingError|ConnectionError"),
    "does not end": (failing(body=lambda content: bytes(4_000_000)), "more than the .* bytes published"),
    "nobody there": (lambda server, known: server.close(), "ConnectionError"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_what_cannot_be_fetched_leaves_nothing(server, monkeypatch, tmp_path, kind):
    damage, because = FAILURES[kind]
    known = publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    damage(server, known)
    with pytest.raises(ImageDataError, match=because) as caught:
        images.fetch("mnist", tmp_path / "data")
    assert re.fullmatch(r"[^\n]+ could not be fetched \([^\n]+\)", str(caught.value))
    assert server.url in str(caught.value)
    assert left_in(tmp_path / "data") == []


def test_an_interrupted_fetch_leaves_nothing(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))

    def interrupted(sentence):
        if len(server.asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.fetch("mnist", tmp_path / "data", interrupted)
    assert left_in(tmp_path / "data") == []


@pytest.mark.slow
def test_a_killed_fetch_leaves_nothing_that_counts(server, monkeypatch, tmp_path):
    """Killed while the last file is on its way, in a process of its own; the next fetch clears up and succeeds."""
    files = idx_files(tmp_path)
    known = publish(server, monkeypatch, "mnist", files)
    last = f"/{known.downloads[-1].file}"
    whole = server.answers[last]
    server.answers[last] = [(200, files[known.downloads[-1].file][:20], 10**6)]
    slow = threading.Event()
    monkeypatch.setattr(server.http, "finish_request", held(server, last, slow))
    program = f"""
from simulator.images import fetching
from simulator.images.sets import SETS, Download, ImageSet
import dataclasses
SETS["mnist"] = dataclasses.replace(SETS["mnist"], downloads={known.downloads!r})
fetching.fetch("mnist", {str(tmp_path / "data")!r})
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 300  # the imports alone take long on a busy machine
        while last not in server.asked and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert last in server.asked
    finally:
        process.kill()
        process.wait()
        slow.set()
    assert any("part" in name for name in left_in(tmp_path / "data"))
    with pytest.raises(ImageDataError, match="mnist is missing"):
        images.load("mnist", tmp_path / "data")
    server.answers[last] = whole
    images.fetch("mnist", tmp_path / "data")
    assert left_in(tmp_path / "data") == ["mnist"]
    assert len(images.load("mnist", tmp_path / "data").x_train) == 6


def held(server, path, until):
    """Keep the connection of a request open until told."""
    finish = server.http.finish_request

    def slowly(request, address):
        finish(request, address)
        if path in server.asked:
            until.wait(60)

    return slowly


# ---- a folder that cannot take it ----


def test_a_second_fetch_is_refused_while_the_first_works(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    (tmp_path / "data").mkdir()
    with (
        FileLock(tmp_path / "data" / ".mnist.lock"),
        pytest.raises(ImageDataError, match=r"mnist is being fetched into .* already"),
    ):
        images.fetch("mnist", tmp_path / "data")
    assert not server.asked


@pytest.mark.parametrize("record", [None, "{", '{"name": "mnist", "sha256": {}}'])
def test_what_was_not_fetched_is_left_alone(server, monkeypatch, tmp_path, record):
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "mine").write_text("important")
    if record is not None:
        (tmp_path / "data" / "mnist" / "fetched.json").write_text(record)
    with pytest.raises(ImageDataError, match="holds something that was not fetched"):
        images.fetch("mnist", tmp_path / "data")
    assert (tmp_path / "data" / "mnist" / "mine").read_text() == "important"
    assert not server.asked


def test_a_folder_that_is_a_file_is_told(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ImageDataError, match=r"mnist cannot be stored in .*: give another folder"):
        images.fetch("mnist", tmp_path / "data")


# ---- archives ----


def tar_member(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return tar_of([("a/b", b"fine"), (info, b"")])


def zip_member(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return zip_of([("a/b", b"fine"), (info, b"target")])


def lying_zip():
    """A member that is longer than its entry says."""
    packed = zip_of([("a/b", bytes(5000))])
    return packed.replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little"))


def broken(packed, at):
    return packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]


def with_tail(packed, length):
    """A .tar.gz that goes on behind the end of its members."""
    return gzip.compress(gzip.decompress(packed) + bytes(length))


NOISE = np.random.default_rng(0).bytes(3000)
HOSTILE = {
    "tar with an absolute path": ("x.tar.gz", tar_of([("/tmp/escaped", b"")]), "would leave its folder"),
    "tar with a path upwards": ("x.tar.gz", tar_of([("a/../../escaped", b"")]), "would leave its folder"),
    "tar with a symbolic link": ("x.tar.gz", tar_member("a/c", tarfile.SYMTYPE, ".."), "neither a file nor a folder"),
    "tar with a hard link": ("x.tar.gz", tar_member("a/c", tarfile.LNKTYPE, "a/b"), "neither a file nor a folder"),
    "tar with a device": ("x.tar.gz", tar_member("a/c", tarfile.CHRTYPE), "neither a file nor a folder"),
    "tar with a pipe": ("x.tar.gz", tar_member("a/c", tarfile.FIFOTYPE), "neither a file nor a folder"),
    "tar with a member twice": ("x.tar.gz", tar_of([("a/b", b"1"), ("./a/B", b"2")]), "twice"),
    "tar too large": ("x.tar.gz", tar_of([("a", bytes(6000)), ("b", bytes(6000))]), "too large"),
    "tar with a bomb behind it": ("x.tar.gz", with_tail(tar_of([("a", b"")]), 30_000), "too large"),
    "tar cut": ("x.tar.gz", tar_of([("a", NOISE)])[:-1000], "not an archive that can be unpacked"),
    "tar damaged": ("x.tar.gz", broken(tar_of([("a", NOISE)]), 1500), "not an archive that can be unpacked"),
    "tar not compressed": ("x.tar.gz", gzip.decompress(tar_of([("a", b"")])), "not an archive that can be unpacked"),
    "no tar": ("x.tar.gz", gzip.compress(b"text"), "not an archive that can be unpacked"),
    "zip with an absolute path": ("x.zip", zip_of([("/tmp/escaped", b"")]), "would leave its folder"),
    "zip with a path upwards": ("x.zip", zip_of([("a/b", b""), ("../escaped", b"")]), "would leave its folder"),
    "zip with a path for Windows": ("x.zip", zip_of([("..\\escaped", b"")]), "would leave its folder"),
    "zip with a drive": ("x.zip", zip_of([("C:/escaped", b"")]), "would leave its folder"),
    "zip with a link": ("x.zip", zip_member("a/c", stat.S_IFLNK | 0o777), "neither a file nor a folder"),
    "zip with a pipe": ("x.zip", zip_member("a/c", stat.S_IFIFO | 0o777), "neither a file nor a folder"),
    "zip with a member twice": ("x.zip", zip_of([("a/b", b"1"), ("A/b", b"2")]), "twice"),
    "zip too large": ("x.zip", zip_of([("a", bytes(6000)), ("b", bytes(6000))]), "too large"),
    "zip that lies": ("x.zip", lying_zip(), "not an archive that can be unpacked"),
    "zip cut": ("x.zip", zip_of([("a", NOISE)])[:-40], "not an archive that can be unpacked"),
    "zip damaged": ("x.zip", broken(zip_of([("a", NOISE)]), 1500), "not an archive that can be unpacked"),
    "no zip": ("x.zip", b"text", "not an archive that can be unpacked"),
    "empty zip": ("x.zip", b"", "not an archive that can be unpacked"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_write_nothing_outside(tmp_path, kind):
    name, content, because = HOSTILE[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageDataError, match=because) as caught:
        archives.unpack(tmp_path / name, tmp_path / "in" / "side", 10_000)
    assert str(caught.value).startswith(f"{name} ")
    assert "\n" not in str(caught.value)
    outside = {one for one in tmp_path.rglob("*") if "side" not in one.parts}
    assert outside <= {tmp_path / name, tmp_path / "in"}
    assert not os.path.lexists("/tmp/escaped")
    assert not [one for one in tmp_path.rglob("*") if one.is_symlink()]


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    (tmp_path / "x.zip").write_bytes(zip_of([(name, b"") for name in "abc"]))
    with pytest.raises(ImageDataError, match="too large"):
        archives.unpack(tmp_path / "x.zip", tmp_path / "inside", 10)
    assert not (tmp_path / "inside").exists()


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_archives_within_the_limit_are_unpacked(tmp_path, name):
    members = [("a/b", NOISE), ("a/c/d", b""), ("e", b"text")]
    (tmp_path / name).write_bytes((tar_of if name.endswith("gz") else zip_of)(members))
    archives.unpack(tmp_path / name, tmp_path / "inside", len(NOISE) + 4)
    for member, content in members:
        assert (tmp_path / "inside" / member).read_bytes() == content


@pytest.mark.parametrize("kind", ["tar with a path upwards", "tar with a symbolic link", "tar cut"])
def test_a_published_archive_that_is_hostile_leaves_nothing(server, monkeypatch, tmp_path, kind):
    """Even with the right checksum."""
    _, content, because = HOSTILE[kind]
    publish(server, monkeypatch, "cifar10", {"cifar-10-binary.tar.gz": content})
    with pytest.raises(ImageDataError, match=because):
        images.fetch("cifar10", tmp_path / "data")
    assert left_in(tmp_path / "data") == []


def test_an_archive_of_something_else_leaves_nothing(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "cifar10", {"cifar-10-binary.tar.gz": tar_of([("other/file", b"")])})
    with pytest.raises(ImageDataError, match="has no folder cifar-10-batches-bin"):
        images.fetch("cifar10", tmp_path / "data")
    assert left_in(tmp_path / "data") == []


# ---- the table of sets ----


def test_published_files_are_told_in_full():
    for known in SETS.values():
        for one in known.downloads:
            assert re.fullmatch("[0-9a-f]{64}", one.sha256)
            assert one.size > 1000
            assert all(url.startswith("http") and url.endswith(f"/{one.file}") for url in one.urls)
        assert bool(known.folder) == bool(known.downloads)
        assert bool(known.archive) == bool(known.unpacked)
        assert len(known.mean) == len(known.deviation)
    digests = [one.sha256 for known in SETS.values() for one in known.downloads]
    assert len(set(digests)) == len(digests) == 10


# ---- the command line ----


@pytest.fixture
def simulator(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_prepare", lambda arguments: None)

    def call(line):
        code = cli.main(shlex.split(line))
        return code, *capsys.readouterr()

    return call


def test_command_list(simulator):
    code, printed, said = simulator("images list")
    assert (code, said) == (0, "")
    assert [line.split()[0] for line in printed.splitlines()] == list(SETS)


def test_command_fetch(simulator, server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "mnist", idx_files(tmp_path))
    code, printed, said = simulator(f"images fetch mnist --data-dir {tmp_path}/data")
    assert (code, printed) == (0, f"{tmp_path}/data/mnist\n")
    assert [line.split()[0] for line in said.splitlines()] == ["fetching"] * 4
    assert simulator(f"images fetch mnist --data-dir {tmp_path}/data")[0] == 0


@pytest.mark.parametrize(
    ("line", "because"),
    [
        ("images fetch mnits", "did you mean mnist?"),
        ("images fetch digits", "ships with the package"),
        ("images fetch", "NAME"),
        ("images fetch mnist --data-dir notes.txt", "notes.txt"),
        ("images list --all", "--all"),
        ("images ftech", "ftech"),
    ],
)
def test_command_with_mistakes(simulator, monkeypatch, tmp_path, line, because):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("important")
    code, printed, said = simulator(line)
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"simulator: [^\n]+\n", said)
    assert because in said
