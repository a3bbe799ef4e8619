"""Every definition.py: short, of the same signature as the fast loss, and free of machinery."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import cvpods_ext.methods

FOLDER = Path(cvpods_ext.methods.__file__).parent
METHODS = ("auto_assign", "feature_align", "free_anchor")
# Arguments that bound memory: the definition has no use for them.
BOUNDS = {"pairs_at_once", "elements_at_once", "bags_at_once"}


def code_lines(source: str) -> int:
    """Return the number of lines that are neither blank, comment, docstring nor import."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in skipped
        for number, line in lines
    )


def test_code_lines():
    source = (
        '"""A\ntext."""\nimport math\n\n# comment\ndef f():\n    """Text."""\n    return math.pi\n'
    )
    assert code_lines(source) == 2


def test_every_loss_with_a_gradient_of_its_own_has_a_definition():
    """ATSS needs none: assign.py and loss.py are the paper's text."""
    assert {path.parent.name for path in FOLDER.glob("*/definition.py")} == set(METHODS)
    assert {path.parent.name for path in FOLDER.glob("*/loss.py")} == {*METHODS, "atss"}


@pytest.mark.parametrize("method", METHODS)
def test_definition_is_short_and_plain(method):
    source = (FOLDER / method / "definition.py").read_text(encoding="utf-8")
    assert code_lines(source) <= 60
    for word in ("kernels", "checkpoint(", "autograd", "slices", "no_grad"):
        assert word not in source


@pytest.mark.parametrize("method", METHODS)
def test_definition_has_the_signature_of_the_loss(method):
    name = f"{method}_loss"
    fast, plain = (
        inspect.signature(
            getattr(importlib.import_module(f"cvpods_ext.methods.{method}.{module}"), name)
        ).parameters
        for module in ("loss", "definition")
    )
    shared = [parameter for parameter in fast.values() if parameter.name not in BOUNDS]
    defaults = [(p.name, p.kind, p.default) for p in shared if p.name != "average"]
    assert defaults == [(p.name, p.kind, p.default) for p in plain.values() if p.name != "average"]
    assert [p.name for p in shared] == list(plain)
