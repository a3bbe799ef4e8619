"""Texts are read and written in UTF-8, whatever the locale of the machine is."""

from __future__ import annotations

import ast

import pytest

from tests.load_script import ROOT

FOLDERS = ("cvpods", "cvpods_ext", "datasets", "scripts")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# open() of these opens something else, or no text.
NOT_TEXT = ("Image", "av", "os", "urllib", "tarfile", "zipfile", "self")


def unsaid(tree: ast.AST) -> list[int]:
    """Lines that open, read or write a text without saying its encoding."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute):
            lines.append(node.lineno)
        elif name == "open" and owner not in NOT_TEXT:
            words = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            modes = [w.value for w in words if isinstance(w, ast.Constant)]
            if not any(isinstance(mode, str) and "b" in mode for mode in modes):
                lines.append(node.lineno)
    return lines


def test_by_hand():
    """Lines 1 and 2 say nothing; the others do, or open no text."""
    text = "p.read_text()\nopen(p)\nopen(p, 'rb')\np.open('w', encoding='utf-8')\nImage.open(p)\n"
    assert unsaid(ast.parse(text)) == [1, 2]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_has_an_encoding(folder):
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == folder]
    found = {str(p): unsaid(ast.parse(p.read_text(encoding="utf-8"))) for p in files}
    assert len(files) > 1 and {path: lines for path, lines in found.items() if lines} == {}
