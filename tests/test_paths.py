"""Every file that the documentation, a docstring or a comment names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.load_script import ROOT

PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")})
FOLDERS = ("cvpods", "cvpods_ext", "datasets", "playground", "scripts", "tests")
SOURCES = [
    path
    for folder in FOLDERS
    for suffix in ("py", "sh")
    for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path of the repository, from its root. What a reader makes, or a run writes, does not count.
NAMED = re.compile(
    r"(?<![\w./-])((?:cvpods|cvpods_ext|datasets|docs|findings|playground|scripts|tests)/"
    r"[\w./-]*\.(?:py|md|sh|png|json))(?!\w)"
)
MADE = re.compile(r"playground/(cells|convnext)/|datasets/(shapes|subset|coco)/|/output/")


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors that a rendered page has for its headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page, other than web addresses, that lead nowhere."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if "://" in link:
            continue
        if not path.exists() or (anchor and anchor not in heading_anchors(path)):
            broken.append(link)
    return broken


def missing_paths(text: str) -> list[str]:
    """Return the named paths of the repository that do not exist."""
    named = sorted(set(NAMED.findall(text)))
    return [name for name in named if not MADE.search(name) and not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages(page):
    assert broken_links(page) == []
    assert missing_paths(page.read_text(encoding="utf-8")) == []


def test_sources():
    missing = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if (names := missing_paths(path.read_text(encoding="utf-8")))
    }
    assert missing == {}


def test_by_hand(tmp_path):
    """The second link, the third's anchor and the last path do not exist."""
    page = tmp_path / "a.md"
    page.write_text("# A title, here\n[a](a.md#a-title-here) [b](b.md) [c](#c) [d](https://x.y)\n")
    assert broken_links(page) == ["b.md", "#c"]
    none = "cvpods/" + "none.py"  # in two parts, so that this file does not name it
    assert missing_paths(f"tests/test_paths.py, datasets/coco/x.json, {none}.") == [none]
