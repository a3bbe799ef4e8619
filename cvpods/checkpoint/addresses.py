"""Lookup of the local file for MODEL.WEIGHTS: paths, addresses, the cache and mirrors."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PureWindowsPath
from urllib.parse import SplitResult, quote, unquote, urlsplit

import torch
from filelock import FileLock
from loguru import logger

from cvpods.checkpoint.catalog import PublishedWeights, find_published, has_unique_name
from cvpods.checkpoint.download import Check, Request, download_file, file_sha256
from cvpods.utils.errors import CheckpointError


def cache_dir() -> Path:
    """Return the folder of downloaded weights: $CVPODS_CACHE, or cvpods/ in torch's hub folder."""
    named = os.environ.get("CVPODS_CACHE")
    return Path(named).expanduser() if named else Path(torch.hub.get_dir()) / "cvpods"


def find_file(address: str | Path, check: Check | None = None) -> Path:
    """Return the local file of a path or address. A file is downloaded at most once.

    Addresses are http(s)://host/file.pth; the catalogue's detectron2://, catalog:// and
    open-mmlab://; torchvision://resnet50?IMAGENET1K_V2; and cvpods://NAME, a file in
    $CVPODS_WEIGHTS or on a mirror. NAME may be an experiment, which stands for its model_final.pth.
    An address may end with #sha256=...; the file's hash is then checked. A file in $CVPODS_WEIGHTS
    is used before any download.

    Args:
        check: reads a downloaded file before it is kept, and raises CheckpointError if the file is
            broken.

    Raises:
        CheckpointError: the file does not exist, the address is unknown, the download fails, or
            the hash differs.
    """
    text = str(address)
    if Path(text).expanduser().is_file():
        return Path(text).expanduser()
    plain, _, fragment = text.partition("#")
    sha256 = _read_hash(text, fragment)
    if plain.startswith("cvpods://"):
        return _fetch_from_mirrors(plain, sha256, check)
    if "://" in plain:
        known = find_published(plain)
        return _fetch(plain, known, sha256 or known.sha256, check)
    return _check_hash(_find_local_file(plain), sha256, text)


def _find_local_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_absolute() and (found := find_in_weights_folder([name])):
        return found
    problem = "is a folder, not a file" if path.is_dir() else "does not exist"
    folder = os.environ.get("CVPODS_WEIGHTS", "which is not set")
    raise CheckpointError(
        f"Weights file {path} {problem}, and $CVPODS_WEIGHTS ({folder}) has no file of that name."
    )


def _read_hash(address: str, fragment: str) -> str:
    """Return the hash in the part of an address after "#"; "" if that part is empty.

    Raises:
        CheckpointError: the part is not a hash.
    """
    if not fragment:
        return ""
    match = re.fullmatch(r"sha256=([0-9a-f]{8,64})", fragment.lower())
    if match is None:
        raise CheckpointError(
            f"MODEL.WEIGHTS {address}: write the hash as #sha256= and 8 to 64 hexadecimal digits."
        )
    return match[1]


def _check_hash(path: Path, sha256: str, address: str) -> Path:
    """Return `path` after comparing its hash with `sha256`, unless that is "".

    Raises:
        CheckpointError: the hashes differ.
    """
    if sha256 and not file_sha256(path).startswith(sha256):
        raise CheckpointError(
            f"{path}, for {address}, has the SHA-256 {file_sha256(path)}, not {sha256}...: it is "
            "damaged or another file. Remove it to download it again."
        )
    return path


def find_in_weights_folder(names: list[str]) -> Path | None:
    """Return the first of `names` that exists in $CVPODS_WEIGHTS, or None."""
    folder = os.environ.get("CVPODS_WEIGHTS")
    if not folder:
        return None
    paths = (Path(folder).expanduser() / name for name in names)
    found = next((path for path in paths if path.is_file()), None)
    if found is not None:
        logger.info(f"Using {found} of $CVPODS_WEIGHTS.")
    return found


def mirrors() -> list[str]:
    """Return the base addresses in $CVPODS_MIRRORS, which are tried before the publisher's."""
    listed = os.environ.get("CVPODS_MIRRORS", "").split(",")
    return [mirror.strip().rstrip("/") for mirror in listed if mirror.strip()]


def check_inside(address: str, part: str) -> None:
    """Check that `part` of an address stays below the folder in which its file is stored.

    Servers and mirrors may decode percent signs, so the decoded part is checked.

    Raises:
        CheckpointError: the part is absolute, climbs with "..", or cannot be the name of a file.
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


def _fetch_from_mirrors(address: str, sha256: str, check: Check | None) -> Path:
    """Return the local file of a cvpods:// address."""
    name = address.removeprefix("cvpods://")
    # An experiment's name, such as "atss.res50.1x", has dots but no suffix of a file of weights.
    if not re.search(r"\.(pth|pt|pkl|safetensors)$", name):
        name = f"{name}/model_final.pth"
    check_inside(address, name)
    if found := find_in_weights_folder([name]):
        return _check_hash(found, sha256, address)
    target = cache_dir() / "cvpods" / name
    if target.is_file():
        return _check_hash(target, sha256, address)
    urls = [f"{mirror}/{name}" for mirror in mirrors()]
    if not urls:
        raise CheckpointError(
            f"MODEL.WEIGHTS {address}: $CVPODS_WEIGHTS "
            f"({os.environ.get('CVPODS_WEIGHTS', 'not set')}) has no {name}, and $CVPODS_MIRRORS "
            "names no server. Name a folder that has it: export CVPODS_WEIGHTS=folder, or write "
            "the path of the file."
        )
    return _download(urls, Request(target, f"MODEL.WEIGHTS {address}", sha256, check))


def _fetch(address: str, known: PublishedWeights, sha256: str, check: Check | None) -> Path:
    """Return the local file of any other address; download it if it is not there."""
    url = _split_url(address, known.url)
    if not url.query and (
        found := find_in_weights_folder(_local_names(address, known, url, sha256))
    ):
        return _check_hash(found, sha256, address)
    path = url.path.lstrip("/")
    # The query may be all that tells two files apart.
    query = f"?{url.query}" if url.query else ""
    host = url.netloc.rpartition("@")[2]
    # Windows does not allow a colon in a name.
    folder = host.replace(":", "_") if os.name == "nt" else host
    target = cache_dir() / folder / f"{path}{_query_in_name(query)}"
    if target.is_file():
        return _check_hash(target, sha256, address)
    urls = [f"{mirror}/{path}{query}" for mirror in mirrors()] + [known.url]
    request = Request(target, f"MODEL.WEIGHTS {address}", sha256, check)
    return _download(urls, request, known.equivalent)


def _split_url(address: str, url: str) -> SplitResult:
    """Return the parts of a file's URL.

    Raises:
        CheckpointError: it is not a URL of a file, or its file would lie outside the cache.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CheckpointError(f"MODEL.WEIGHTS {address} is not an address: {error}.") from error
    path = parts.path.lstrip("/")
    if not path or path.endswith("/"):
        raise CheckpointError(
            f"MODEL.WEIGHTS {address} does not end with the name of a file. Write the address of a "
            "file of weights."
        )
    check_inside(address, parts.netloc.rpartition("@")[2])
    check_inside(address, path)
    return parts


def _local_names(address: str, known: PublishedWeights, url: SplitResult, sha256: str) -> list[str]:
    """Return the names under which $CVPODS_WEIGHTS may hold the file of an address."""
    path = url.path.lstrip("/")
    names = [address.replace("://", "/"), f"{url.netloc}/{path}", path]
    if known.expects:
        names.append("/".join(path.split("/")[-2:]))
    # The last part alone is enough if the hash, or that part itself, identifies the file.
    if sha256 or has_unique_name(known):
        names.append(Path(path).name)
    return names


def _query_in_name(query: str) -> str:
    """Return a query as the end of a file's name. A query too long for a name becomes a hash."""
    quoted = quote(query, safe="")
    return quoted if len(quoted) <= 100 else f"%3F{hashlib.sha256(query.encode()).hexdigest()}"


def _download(urls: list[str], request: Request, equivalent: str = "") -> Path:
    """Try `urls` in turn. Only one process downloads a file; the others wait for it.

    Args:
        equivalent: see PublishedWeights.

    Raises:
        CheckpointError: every address failed, or the cache cannot be written.
    """
    failures, target = [], request.target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_file():
                return target
            for url in urls:
                try:
                    return download_file(url, request)
                except (OSError, ValueError, HTTPException, CheckpointError) as error:
                    failures.append(f"  {url}: {error or type(error).__name__}")
    except OSError as error:
        raise CheckpointError(
            f"{request.source}: the cache {target.parent} cannot be written ({error}). Name "
            "another folder: export CVPODS_CACHE=folder."
        ) from error
    remedies = _remedies(target, equivalent)
    raise CheckpointError(
        "\n".join([f"{request.source} cannot be downloaded:", *failures, *remedies])
    )


def _remedies(target: Path, equivalent: str) -> Iterator[str]:
    """Yield the lines that tell what to do when a download fails."""
    yield "Do one of the following:"
    yield f"  put the file at {target};"
    yield "  put the file into a folder under its own name, and export CVPODS_WEIGHTS=folder;"
    yield "  name a server that has it: export CVPODS_MIRRORS=https://server/folder;"
    if equivalent:
        yield (
            f"  take torchvision's weights instead: pretrained('torchvision://{equivalent}') of "
            "cvpods_ext.configs.frameworks in config.py (it sets their colours and strides);"
        )
    yield '  start from random weights: MODEL.WEIGHTS "".'
