"""Sources of weights: a server of this test, the cache, a folder, mirrors and hashes."""

import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from cvpods.checkpoint import addresses, catalog, download, load_file
from cvpods.checkpoint.addresses import cache_dir, find_file
from cvpods.checkpoint.catalog import CATALOG, PublishedWeights
from cvpods.utils.errors import CheckpointError

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Server of CONTENT at every path, except /missing, /short (half) and /slow (no answer)."""

    def __init__(self):
        self.asked = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802 - the library's name
                server.asked.append(self.path)
                if self.path.startswith("/missing"):
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                if self.path.startswith("/slow"):
                    self.wfile.write(CONTENT[:100])
                    self.wfile.flush()
                    time.sleep(3)
                elif self.path.startswith("/short"):
                    self.wfile.write(CONTENT[: len(CONTENT) // 2])
                else:
                    if self.path.startswith("/pause"):
                        time.sleep(1)
                    self.wfile.write(CONTENT)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return an empty cache, and remove the user's variables."""
    monkeypatch.setenv("CVPODS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("CVPODS_WEIGHTS", "CVPODS_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


# -- downloads -------------------------------------------------------------------------------------


def test_downloads_happen_once(server, cache):
    first, second = (find_file(f"{server.url}/some/x.pth") for _ in range(2))
    assert server.asked == ["/some/x.pth"]
    assert first == second == cache / server.url.removeprefix("http://") / "some" / "x.pth"
    assert first.read_bytes() == CONTENT and files_in(cache) == [first]


@pytest.mark.parametrize("digits", [8, 16, 64])
def test_the_right_hash(server, digits):
    address = f"{server.url}/x.pth#sha256={SHA256[:digits].upper()}"
    assert find_file(address).read_bytes() == CONTENT
    assert find_file(address).read_bytes() == CONTENT and server.asked == ["/x.pth"]


def test_another_hash(server, cache):
    """The error names both hashes, and the file is not kept."""
    with pytest.raises(CheckpointError) as raised:
        find_file(f"{server.url}/x.pth#sha256={'0' * 64}")
    assert SHA256 in str(raised.value) and "0" * 64 in str(raised.value)
    assert files_in(cache) == []


def test_a_file_in_the_cache_that_was_changed(server):
    address = f"{server.url}/x.pth#sha256={SHA256}"
    path = find_file(address)
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="damaged or another file. Remove it") as raised:
        find_file(address)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("fragment", ["md5=00", "sha256=xyz", "sha256=0123", "sha256=", "x"])
def test_what_is_no_hash(server, fragment):
    with pytest.raises(CheckpointError, match="#sha256="):
        find_file(f"{server.url}/x.pth#{fragment}")
    assert server.asked == []


@pytest.mark.parametrize("path", ["missing/x.pth", "short/x.pth"])
def test_broken_downloads_leave_nothing(server, cache, path):
    with pytest.raises(CheckpointError, match="cannot be downloaded") as raised:
        find_file(f"{server.url}/{path}")
    assert f"{server.url}/{path}" in str(raised.value)
    assert files_in(cache) == []


def test_a_server_that_says_no_more(server, cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="timed out"):
        find_file(f"{server.url}/slow/x.pth")
    assert time.perf_counter() - start < 2.5 and files_in(cache) == []


def test_processes_wait_for_one_download(server, cache):
    """Four processes that need the same file send one request."""
    code = f"from cvpods.checkpoint.addresses import find_file; find_file('{server.url}/pause/x')"
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [run.wait(120) for run in runs] == [0] * 4
    assert server.asked == ["/pause/x"]


def test_unreachable_address(cache):
    """The error names the remedies, and no partial file is left."""
    with pytest.raises(CheckpointError) as raised:
        load_file("http://127.0.0.1:9/some/x.pth")
    for part in (
        "http://127.0.0.1:9/some/x.pth",
        str(cache / "127.0.0.1:9" / "some" / "x.pth"),
        "CVPODS_WEIGHTS",
        "CVPODS_MIRRORS",
        'MODEL.WEIGHTS ""',
    ):
        assert part in str(raised.value)
    assert files_in(cache) == []


def test_unreachable_backbone_names_torchvisions(monkeypatch):
    address = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
    known = PublishedWeights("http://127.0.0.1:9/R-101.pkl", equivalent="resnet101")
    monkeypatch.setitem(CATALOG, address, known)
    with pytest.raises(CheckpointError, match=r"pretrained\('torchvision://resnet101'\)"):
        find_file(address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://127.0.0.1:9/"])
def test_address_without_a_file(address):
    with pytest.raises(CheckpointError, match="does not end with the name of a file"):
        find_file(address)


# -- mirrors and the folder of weights ------------------------------------------------------------


def test_mirrors_come_first(server, monkeypatch):
    """A mirror that fails is skipped; the publisher is tried last."""
    mirrors = f"http://127.0.0.1:9, {server.url}/missing, {server.url}/copy/"
    monkeypatch.setenv("CVPODS_MIRRORS", mirrors)
    assert find_file("http://127.0.0.1:9/a/x.pth").read_bytes() == CONTENT
    assert server.asked == ["/missing/a/x.pth", "/copy/a/x.pth"]


def test_a_mirror_with_another_file(server, monkeypatch):
    """The hash is checked for mirrors, too; the publisher then has the right file."""
    monkeypatch.setenv("CVPODS_MIRRORS", f"{server.url}/short")
    assert find_file(f"{server.url}/x.pth#sha256={SHA256}").read_bytes() == CONTENT
    assert server.asked == ["/short/x.pth", "/x.pth"]


@pytest.mark.parametrize(
    "address, name",
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "R-50.pkl"),
        (
            "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
            "detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        ),
        ("catalog://ImageNetPretrained/FAIR/X-101-64x4d", "X-101-64x4d.pkl"),
        ("http://host/a/x.pth", "host/a/x.pth"),
        ("http://host/a/x.pth", "a/x.pth"),
        ("cvpods://atss.res50.1x", "atss.res50.1x/model_final.pth"),
        ("cvpods://zoo/x.safetensors", "zoo/x.safetensors"),
        ("cvpods/ImageNetPretrained/R-50.pkl", "cvpods/ImageNetPretrained/R-50.pkl"),
    ],
)
def test_the_folder_of_weights(tmp_path, monkeypatch, address, name):
    """A file in $CVPODS_WEIGHTS is not downloaded."""
    path = tmp_path / "weights" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path / "weights"))
    assert find_file(address) == path


def test_the_folder_of_weights_with_another_file(tmp_path, monkeypatch):
    """torchvision's names end with the hash, which is checked there, too."""
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(CONTENT)
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match="not 0676ba61"):
        find_file("torchvision://resnet50")


def test_project_weights_from_a_mirror(server, cache, monkeypatch):
    monkeypatch.setenv("CVPODS_MIRRORS", server.url)
    path = find_file("cvpods://atss.res50.1x")
    assert server.asked == ["/atss.res50.1x/model_final.pth"]
    assert find_file("cvpods://atss.res50.1x") == path and len(server.asked) == 1


def test_project_weights_that_are_nowhere():
    with pytest.raises(CheckpointError, match="CVPODS_WEIGHTS.*CVPODS_MIRRORS") as raised:
        find_file("cvpods://atss.res50.1x")
    assert "atss.res50.1x/model_final.pth" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["../x.pth", "a/../../x.pth", "/etc/x.pth", "a\\..\\x.pth", "C:\\x.pth"]
)
def test_project_weights_stay_in_their_folder(name):
    with pytest.raises(CheckpointError, match="does not stay below the folder of weights"):
        find_file(f"cvpods://{name}")


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["s3://bucket/x.pth", "ftp://host/x.pth", "://x"])
def test_unknown_kind_of_address(address):
    with pytest.raises(CheckpointError) as raised:
        load_file(address)
    assert address in str(raised.value)
    for kind in ("http", "detectron2://", "torchvision://", "timm://", "cvpods://"):
        assert kind in str(raised.value)


@pytest.mark.parametrize("address", ["catalog://COCO/1", "open-mmlab://resnet50_v9"])
def test_names_that_a_catalogue_does_not_have(address):
    kind = address.partition("://")[0]
    with pytest.raises(CheckpointError, match="catalogue") as raised:
        find_file(address)
    assert any(name in str(raised.value) for name in CATALOG if name.startswith(kind))


def test_cache_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("CVPODS_CACHE")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert tmp_path in cache_dir().parents


def test_a_path(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match="does not exist"):
        find_file(path)
    path.write_bytes(CONTENT)
    assert find_file(str(path)) == Path(path)


# -- names of different files ----------------------------------------------------------------------


def test_what_follows_a_question_mark(server):
    """Links that differ only in the query are different files."""
    paths = [find_file(f"{server.url}/uc?id={name}") for name in ("a.pth", "b.pth")]
    assert paths[0] != paths[1] and server.asked == ["/uc?id=a.pth", "/uc?id=b.pth"]


@pytest.mark.parametrize(
    "address, name",
    [
        ("https://127.0.0.1:9/some/model_final.pth", "model_final.pth"),
        ("detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl", "X-101-32x8d.pkl"),
        ("catalog://ImageNetPretrained/FAIR/20171220/X-101-32x8d", "X-101-32x8d.pkl"),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", "R-50.pkl"),
    ],
)
def test_names_that_say_too_little(tmp_path, monkeypatch, address, name):
    """Two files have one name and different normalisations: neither is chosen."""
    (tmp_path / name).write_bytes(CONTENT)
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path))
    known = catalog.find_published(address)
    monkeypatch.setattr(addresses, "_download", lambda *args: Path("downloaded"))
    assert find_file(address) == Path("downloaded")
    folder = tmp_path / known.url.split("/")[-2]
    folder.mkdir()
    (folder / name).write_bytes(CONTENT)
    if known.expects:  # with its folder's name it is
        assert find_file(address) == folder / name


def test_a_plain_name_with_a_hash(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(CONTENT)
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path))
    assert find_file(f"http://127.0.0.1:9/a/b/x.pth#sha256={SHA256}") == tmp_path / "x.pth"


@pytest.mark.parametrize("kind", ["path", "cvpods"])
def test_hashes_of_local_files(tmp_path, monkeypatch, kind):
    (tmp_path / "x.pth").write_bytes(CONTENT)
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path))
    address = str(tmp_path / "x.pth") if kind == "path" else "cvpods://x.pth"
    assert find_file(f"{address}#sha256={SHA256}") == tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        find_file(f"{address}#sha256={'0' * 64}")


def test_a_path_with_a_number_sign(tmp_path):
    path = tmp_path / "a#b.pth"
    path.write_bytes(CONTENT)
    assert find_file(path) == path


# -- servers that misbehave ------------------------------------------------------------------------


def answering(answer):
    """Yield the address of a server that sends these bytes for every request."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/x.pth"


@pytest.mark.parametrize(
    "answer",
    [
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n<html>log in</html> ",
        b"",
    ],
    ids=["not HTTP", "cut", "web page", "nothing"],
)
def test_answers_that_are_no_file(cache, answer):
    """One message names the remedies, and nothing is kept."""
    with pytest.raises(CheckpointError, match="Do one of"):
        find_file(answering(answer))
    assert files_in(cache) == []


@pytest.mark.parametrize("address", ["http://[bad/x.pth", "http://exa mple/x.pth"])
def test_addresses_that_are_none(address):
    with pytest.raises(CheckpointError, match="MODEL.WEIGHTS http"):
        find_file(address)


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CVPODS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match="export CVPODS_CACHE=folder"):
        find_file(f"{server.url}/x.pth")


# -- names that climb ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        "a/../x.pth",
        "../../outside/x.pth",
        "%2e%2e/%2E%2e/x.pth",
        "%252e%252e/x.pth",
        "a/%2e%2e%2fx.pth",
        "..\\..\\x.pth",
        "a/..%5cx.pth",
        "C:/x.pth",
        "C:%5cx.pth",
        "%2fetc/x.pth",
        "a/x%00.pth",
        "a/x%0a.pth",
    ],
)
@pytest.mark.parametrize("kind", ["http", "detectron2", "mirror"])
def test_addresses_that_climb_are_refused_first(server, tmp_path, cache, monkeypatch, end, kind):
    """No request is sent, and nothing is written, not even the cache's folder."""
    start = {"http": f"{server.url}/", "detectron2": "detectron2://", "mirror": "cvpods://"}[kind]
    monkeypatch.setattr(catalog, "DETECTRON2", f"{server.url}/")
    monkeypatch.setenv("CVPODS_MIRRORS", server.url)
    with pytest.raises(CheckpointError, match="does not stay below the folder of weights"):
        find_file(start + end)
    assert server.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["http://../x.pth", "http://%2e%2e/x.pth", "http://..\\a/x.pth"]
)
def test_hosts_that_climb(tmp_path, address):
    with pytest.raises(CheckpointError, match="does not stay below"):
        find_file(address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "query", ["?../../x", "?a=/etc/x", "?a=..%2f..%2fx", f"?a={'x' * 900}", ";/../y"]
)
def test_queries_stay_in_the_name(server, cache, query):
    """A signed link's query is longer than a name may be."""
    address = f"{server.url}/a/x.pth{query}"
    if ".." in query.partition("?")[0]:
        with pytest.raises(CheckpointError, match="does not stay below"):
            find_file(address)
        return
    path = find_file(address)
    assert path.parent == cache / server.url.removeprefix("http://") / "a"
    assert path.name.startswith("x.pth%3F") and files_in(cache) == [path]


def test_the_users_password_is_not_in_the_name(server, cache):
    """The folder of http://user:word@host/x is the host."""
    address = server.url.replace("http://", "http://user:word@")
    with pytest.raises(CheckpointError) as raised:
        find_file(f"{address}/x.pth")
    host = server.url.removeprefix("http://")
    assert f"put the file at {cache / host / 'x.pth'}" in str(raised.value)


# -- limits ----------------------------------------------------------------------------------------


def weights_file(tmp_path) -> bytes:
    path = tmp_path / "good.pth"
    torch.save({"model": {"a": torch.zeros(500)}}, path)
    content = path.read_bytes()
    path.unlink()
    return content


HEADERS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def test_a_body_without_length_is_read_before_it_is_kept(cache, tmp_path):
    """A complete file is kept; a file cut anywhere is not."""
    content = weights_file(tmp_path)
    assert set(load_file(answering(HEADERS + content))["model"]) == {"a"}
    kept = files_in(cache)
    for end in (0, 1, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(CheckpointError, match="(?s)the downloaded file is not kept.*Do one of"):
            load_file(answering(HEADERS + content[:end]))
    assert files_in(cache) == kept


def test_a_body_without_length_of_unknown_content(cache):
    """Only a hash can prove that the file is complete."""
    with pytest.raises(CheckpointError, match="does not say how long the file is.*#sha256="):
        find_file(answering(HEADERS + CONTENT))
    assert files_in(cache) == []
    path = find_file(f"{answering(HEADERS + CONTENT)}#sha256={SHA256}")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("headers", [HEADERS, b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n"])
def test_files_that_are_too_large(cache, monkeypatch, headers):
    """By the server's header, or by its content: 8,000 bytes, where 5,000 are allowed."""
    monkeypatch.setenv("CVPODS_MAX_DOWNLOAD_GB", "5e-6")
    with pytest.raises(CheckpointError, match="more than 5e-06 GB.*CVPODS_MAX_DOWNLOAD_GB=N"):
        load_file(answering(headers + CONTENT))
    assert files_in(cache) == []


def test_a_server_that_is_too_slow(cache, monkeypatch):
    """One byte at a time, each within TIMEOUT: the limit of the total time ends the download."""
    monkeypatch.setenv("CVPODS_MAX_DOWNLOAD_MINUTES", "0.01")
    listener = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(HEADERS)
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    start = time.perf_counter()
    with listener, pytest.raises(CheckpointError, match="not complete after 0.01 minutes"):
        load_file(f"http://127.0.0.1:{listener.getsockname()[1]}/x.pth")
    assert time.perf_counter() - start < 4 and files_in(cache) == []


@pytest.mark.parametrize("value", ["many", "0", "-1", "nan"])
@pytest.mark.parametrize("name", ["CVPODS_MAX_DOWNLOAD_GB", "CVPODS_MAX_DOWNLOAD_MINUTES"])
def test_limits_that_are_not_numbers(server, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=f"{name} must be a number above 0; got '{value}'"):
        find_file(f"{server.url}/x.pth")


def test_progress_is_logged(server, monkeypatch):
    """Without a terminal, log lines give the received and the total size."""
    said = []
    monkeypatch.setattr(download.logger, "info", said.append)
    monkeypatch.setattr(download, "LOG_INTERVAL", -1.0)
    find_file(f"{server.url}/x.pth")
    assert said[0] == f"Downloading {server.url}/x.pth"
    assert said[1].startswith("Downloading x.pth: 0 of 0 MB")


def test_progress_on_a_terminal(server, monkeypatch, capsys):
    monkeypatch.setattr(download, "is_terminal", lambda: True)
    find_file(f"{server.url}/x.pth")
    assert "x.pth: 100%" in capsys.readouterr().err


def test_a_large_pickle_is_not_read(tmp_path, monkeypatch):
    """10,000 bytes, where 5,000 are allowed: refused before a byte is read."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02" + bytes(9_998))
    monkeypatch.setenv("CVPODS_MAX_PICKLE_GB", "5e-6")
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(CheckpointError, match="10,000 bytes; of .pkl files at most 5e-06 GB"):
        load_file(path)
