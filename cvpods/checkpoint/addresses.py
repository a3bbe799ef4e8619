"""From what MODEL.WEIGHTS says to a file on this machine: paths, addresses, cache, mirrors."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PureWindowsPath
from urllib.parse import quote, unquote, urlsplit

import torch
from filelock import FileLock
from loguru import logger

from cvpods.checkpoint.catalog import Published, has_own_name, published
from cvpods.checkpoint.download import Check, Wanted, download_one, file_sha256
from cvpods.utils.errors import CheckpointError


def cache_dir() -> Path:
    """Folder of downloaded weights: $CVPODS_CACHE, else torch's hub folder."""
    named = os.environ.get("CVPODS_CACHE")
    return Path(named).expanduser() if named else Path(torch.hub.get_dir()) / "cvpods"


def find_file(address: str | Path, check: Check | None = None) -> Path:
    """The local file of a path or address; downloads addresses once.

    Addresses: http(s)://host/file.pth; the catalogue's detectron2://, catalog:// and open-mmlab://;
    torchvision://resnet50?IMAGENET1K_V2; and cvpods://NAME, a file of $CVPODS_WEIGHTS or a mirror
    (an experiment's name: its model_final.pth). With #sha256=... at the end the hash is checked.
    A file that $CVPODS_WEIGHTS holds is used before any download.

    Args:
        check: reads a downloaded file before it is kept, and raises what a broken one makes it
            raise.

    Raises:
        CheckpointError: no such file, unknown address, failed download, or another hash.
    """
    text = str(address)
    if Path(text).expanduser().is_file():
        return Path(text).expanduser()
    plain, _, fragment = text.partition("#")
    sha256 = _asked_hash(text, fragment)
    if plain.startswith("cvpods://"):
        return _of_project(plain, sha256, check)
    if "://" in plain:
        known = published(plain)
        return _fetch(plain, known, sha256 or known.sha256, check)
    return _check_hash(_local(plain), sha256, text)


def _local(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_absolute() and (found := in_weights_folder([name])):
        return found
    what = "is a folder, not a file" if path.is_dir() else "does not exist"
    folder = os.environ.get("CVPODS_WEIGHTS", "which is not set")
    raise CheckpointError(
        f"Weights file {path} {what}, and there is none of that name in $CVPODS_WEIGHTS ({folder})."
    )


def _asked_hash(address: str, fragment: str) -> str:
    if not fragment:
        return ""
    match = re.fullmatch(r"sha256=([0-9a-f]{8,64})", fragment.lower())
    if match is None:
        raise CheckpointError(
            f"MODEL.WEIGHTS {address}: write the hash as #sha256= and 8 to 64 hexadecimal digits."
        )
    return match[1]


def _check_hash(path: Path, sha256: str, address: str) -> Path:
    if sha256 and not file_sha256(path).startswith(sha256):
        raise CheckpointError(
            f"{path}, for {address}, has the SHA-256 {file_sha256(path)}, not {sha256}...: it is "
            "damaged or another file. Remove it to have it downloaded again."
        )
    return path


def in_weights_folder(names: list[str]) -> Path | None:
    """The first of `names` that $CVPODS_WEIGHTS holds."""
    folder = os.environ.get("CVPODS_WEIGHTS")
    if not folder:
        return None
    paths = (Path(folder).expanduser() / name for name in names)
    found = next((path for path in paths if path.is_file()), None)
    if found is not None:
        logger.info(f"Using {found} of $CVPODS_WEIGHTS.")
    return found


def mirrors() -> list[str]:
    """Base addresses of $CVPODS_MIRRORS, separated by commas; tried before the publisher's."""
    listed = os.environ.get("CVPODS_MIRRORS", "").split(",")
    return [mirror.strip().rstrip("/") for mirror in listed if mirror.strip()]


def check_inside(address: str, part: str) -> None:
    """Check that `part` of an address stays below the folder that it is put into.

    Servers and mirrors may decode what is written with percent signs, so it is checked decoded.

    Raises:
        CheckpointError: it is absolute, climbs with "..", or is not the name of a file.
    """
    decoded = part
    for _ in range(3):
        decoded = unquote(decoded)
    decoded = decoded.replace("\\", "/")
    absolute = decoded.startswith("/") or PureWindowsPath(decoded).drive
    if absolute or ".." in decoded.split("/") or not decoded.isprintable():
        raise CheckpointError(
            f"MODEL.WEIGHTS {address!r}: {part!r} does not stay below the folder of weights. Write "
            "the address without '..' and without absolute parts."
        )


def _of_project(address: str, sha256: str, check: Check | None) -> Path:
    name = address.removeprefix("cvpods://")
    # "atss.res50.1x" has dots, but no ending of a file of weights.
    if not re.search(r"\.(pth|pt|pkl|safetensors)$", name):
        name = f"{name}/model_final.pth"
    check_inside(address, name)
    if found := in_weights_folder([name]):
        return _check_hash(found, sha256, address)
    target = cache_dir() / "cvpods" / name
    if target.is_file():
        return _check_hash(target, sha256, address)
    urls = [f"{mirror}/{name}" for mirror in mirrors()]
    if not urls:
        raise CheckpointError(
            f"MODEL.WEIGHTS {address}: there is no {name} in $CVPODS_WEIGHTS "
            f"({os.environ.get('CVPODS_WEIGHTS', 'not set')}), and $CVPODS_MIRRORS names no "
            "server. Name a folder that has it: export CVPODS_WEIGHTS=folder, or the file itself."
        )
    return _download(urls, Wanted(target, f"MODEL.WEIGHTS {address}", sha256, check))


def _fetch(address: str, known: Published, sha256: str, check: Check | None) -> Path:
    try:
        url = urlsplit(known.url)
    except ValueError as error:
        raise CheckpointError(f"MODEL.WEIGHTS {address} is not an address: {error}.") from error
    host, path = url.netloc.rpartition("@")[2], url.path.lstrip("/")
    if not path or path.endswith("/"):
        raise CheckpointError(f"MODEL.WEIGHTS {address} names no file.")
    check_inside(address, host)
    check_inside(address, path)
    names = [address.replace("://", "/"), f"{url.netloc}/{path}", path]
    if known.expects:
        names.append("/".join(path.split("/")[-2:]))
    # By its last part alone only where that, or the hash, says which file it is.
    names += [Path(path).name] if sha256 or has_own_name(known) else []
    if not url.query and (found := in_weights_folder(names)):
        return _check_hash(found, sha256, address)
    # What follows a question mark may be all that tells two files apart.
    query = f"?{url.query}" if url.query else ""
    # Windows takes no colon in a name.
    folder = host.replace(":", "_") if os.name == "nt" else host
    target = cache_dir() / folder / f"{path}{_query_in_name(query)}"
    if target.is_file():
        return _check_hash(target, sha256, address)
    urls = [f"{mirror}/{path}{query}" for mirror in mirrors()] + [known.url]
    return _download(
        urls, Wanted(target, f"MODEL.WEIGHTS {address}", sha256, check), known.equivalent
    )


def _query_in_name(query: str) -> str:
    """Return a query as the end of a file's name; a signed link's is longer than names may be."""
    quoted = quote(query, safe="")
    return quoted if len(quoted) <= 100 else f"%3F{hashlib.sha256(query.encode()).hexdigest()}"


def _download(urls: list[str], wanted: Wanted, equivalent: str = "") -> Path:
    """Try `urls` in turn; processes that want the same file wait for the one that fetches it."""
    failures, target = [], wanted.target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_file():
                return target
            for url in urls:
                try:
                    return download_one(url, wanted)
                except (OSError, ValueError, HTTPException, CheckpointError) as error:
                    failures.append(f"  {url}: {error or type(error).__name__}")
    except OSError as error:
        raise CheckpointError(
            f"{wanted.asked}: the cache {target.parent} cannot be written ({error}). Name another "
            "folder: export CVPODS_CACHE=folder."
        ) from error
    raise CheckpointError(
        "\n".join([f"{wanted.asked} cannot be had:", *failures, *_ways(target, equivalent)])
    )


def _ways(target: Path, equivalent: str) -> Iterator[str]:
    """What to do when a download fails."""
    yield "Ways on:"
    yield f"  put the file at {target},"
    yield "  or under its name into a folder, and export CVPODS_WEIGHTS=folder;"
    yield "  name a server that has it: export CVPODS_MIRRORS=https://server/folder;"
    if equivalent:
        yield (
            f"  take torchvision's weights instead: pretrained('torchvision://{equivalent}') of "
            "cvpods_ext.configs.frameworks in config.py (it sets their colours and strides);"
        )
    yield '  or start from random weights: MODEL.WEIGHTS "".'
