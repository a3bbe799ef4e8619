"""Count the turns of phrase that the project's prose avoids, and hold the count at zero.

The text of a Python file is its docstrings, comments and string literals. Shell scripts and pages
of documentation count too. CONTRIBUTING.md, "Letters and words", shows what to write instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.load_script import ROOT

FOLDERS = ("cvpods", "cvpods_ext", "scripts", "datasets", "playground")
PAGES = ("*.md", "docs/*.md", "datasets/*.md", "findings/*.md", "scripts/*.sh", "findings/*.sh")
# Code in a page, in fenced blocks and in lines, is not prose.
CODE = re.compile(r"(?ms)^```.*?^```$|`[^`\n]+`")

# Each pattern is searched in all texts, in any case; a space also matches a line's end.
PHRASES = {
    r"\b(is|are|was|were) no (?!longer\b|more than\b|fewer than\b|less than\b)": (
        'say "is not a ..." or "has no ..."'
    ),
    r"\banew\b": 'say "again" or "restart"',
    r"\bwhere there (is|are)\b": 'say "if", or name the case',
    r"\b(goes|go|going) on\b": 'say "continue" or "resume"',
    r"\bfor want of\b": 'say "because ... is missing"',
    r"\bby heart\b": 'say "overfit"',
    r"\b(answers for|may answer)\b": 'say "is matched to", "is assigned to" or "candidate"',
    r"\bhow surely\b": 'say "probability"',
    r"\bheld against\b": 'say "compared with"',
}
# Each pattern is matched at the start of a docstring.
OPENINGS = {
    r"(What|Which|Who|Whose|Whether|How)\b": "a title is not a question",
    r"Of\b": "name the thing first, not its owner",
}
# The same for a function that is not a property.
FUNCTION_OPENINGS = {
    r"\(": "start with a verb, not with a shape",
    r"(The|A|An|One|All|Each|Every)\b": "start with a verb, not with a noun phrase",
}


class Text(NamedTuple):
    """A piece of prose and the line of the file at which it starts."""

    line: int
    text: str
    kind: str  # "text", "docstring" or "function" (a docstring that must start with a verb)


class Finding(NamedTuple):
    line: int
    excerpt: str
    reason: str


# -- texts of a file -------------------------------------------------------------------------------


def is_property(node: ast.AST) -> bool:
    """Return True for a property, whose docstring describes a value."""
    names = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(name.rpartition(".")[2] in ("property", "cached_property") for name in names)


def docstrings(tree: ast.AST) -> dict[ast.Constant, str]:
    """Return the docstrings of modules, classes and functions, each with its kind."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, *functions)) or not node.body:
            continue
        match node.body[0]:
            case ast.Expr(value=ast.Constant(value=str()) as constant):
                acts = isinstance(node, functions) and not is_property(node)
                found[constant] = "function" if acts else "docstring"
    return found


def strings(tree: ast.AST) -> Iterator[Text]:
    """Yield every string literal. A value inside an f-string is replaced by "{}"."""
    kinds = docstrings(tree)
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield Text(node.lineno, "".join(map(str, parts)), "text")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in inner:
                yield Text(node.lineno, node.value, kinds.get(node, "text"))


def comments(source: str) -> Iterator[Text]:
    """Yield the comments; those on successive lines are one text."""
    lines: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start[0] != last + 1:
            yield Text(start, "\n".join(lines), "text")
            lines = []
        start = start if lines else token.start[0]
        lines.append(token.string.lstrip("# "))
        last = token.start[0]
    if lines:
        yield Text(start, "\n".join(lines), "text")


def texts_of(path: Path) -> Iterator[Text]:
    """Yield the prose of a file. Code in a page is left out; its line breaks stay."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from strings(ast.parse(source))
        yield from comments(source)
    else:
        prose = CODE.sub(lambda code: "\n" * code.group().count("\n"), source)
        yield Text(1, re.sub(r"(?m)^# ", "", prose), "text")


# -- the count -------------------------------------------------------------------------------------


def search(text: Text) -> Iterator[Finding]:
    """Yield what the text has of the phrases and openings."""
    for pattern, reason in PHRASES.items():
        for match in re.finditer(pattern.replace(" ", r"\s+"), text.text, re.IGNORECASE):
            start = text.text[: match.start()]
            around = text.text[max(0, match.start() - 30) : match.end() + 30]
            yield Finding(text.line + start.count("\n"), " ".join(around.split()), reason)
    openings = {"text": {}, "docstring": OPENINGS, "function": {**OPENINGS, **FUNCTION_OPENINGS}}
    for pattern, reason in openings[text.kind].items():
        if re.match(pattern, text.text.lstrip()):
            yield Finding(text.line, text.text.strip().partition("\n")[0], reason)


def report(paths: list[Path]) -> str:
    """Return one line for each finding in the files: FILE:LINE, the text and the reason."""
    findings = [
        f"{path.relative_to(ROOT)}:{finding.line}: {finding.excerpt!r}: {finding.reason}"
        for path in paths
        for text in texts_of(path)
        for finding in sorted(search(text))
    ]
    return "\n".join([f"{len(findings)} findings", *findings] if findings else [])


@pytest.mark.parametrize("folder", FOLDERS)
def test_python(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    found = report(paths)
    assert not found, found


@pytest.mark.parametrize("pattern", PAGES)
def test_pages(pattern):
    paths = sorted(ROOT.glob(pattern))
    assert paths
    found = report(paths)
    assert not found, found


# -- the counter's own tests -----------------------------------------------------------------------

CAUGHT = [
    "'gpu' is no device.",
    "There are no\n    such files.",
    "The launcher starts it anew.",
    "Crop where there is a box.",
    "Where there are boxes, match them.",
    "A training goes on after a stop.",
    "Go on from the last checkpoint.",
    "It is going on.",
    "It stays silent for want of a box.",
    "Learned by heart.",
    "The anchor that answers for a box.",
    "An anchor may answer.",
    "The score says how surely.",
    "Each is held against its twin.",
]
PASSED = [
    "The file is no longer needed.",
    "The share is no more than one.",
    "An image has no boxes.",
    "'gpu' is not a valid device.",
    "Resume the training.",
    "It stores the weights, where they are read again.",
    "The category on the left goes one level up.",
    "Ago, one went on.",
]


@pytest.mark.parametrize("text", CAUGHT)
def test_catches(text):
    assert len(list(search(Text(1, text, "text")))) == 1


@pytest.mark.parametrize("text", PASSED)
def test_passes(text):
    for kind in ("text", "docstring"):
        assert not list(search(Text(1, text, kind)))


@pytest.mark.parametrize(
    ("kind", "text", "count"),
    [
        ("docstring", "What becomes of the cap.", 1),
        ("docstring", "Which tensor goes where.", 1),
        ("docstring", "Who may see it.", 1),
        ("docstring", "\n    Whether it fits.", 1),
        ("docstring", "How often it was started.", 1),
        ("docstring", "Of one level, the scores.", 1),
        ("docstring", "(M, 4) boxes of an image.", 0),
        ("function", "(M,) whether each box is valid.", 1),
        ("function", "Return the (M, 4) boxes.", 0),
        ("function", "The boxes of one image.", 1),
        ("function", "Offset of the grid.", 0),
        ("docstring", "The boxes of one image.", 0),
        ("text", "What to do: see above.", 0),
        ("text", "(M, 4)", 0),
    ],
)
def test_openings(kind, text, count):
    assert len(list(search(Text(1, text, kind)))) == count


def test_texts_of_a_python_file(tmp_path):
    """Docstrings by kind, other strings, f-strings as a whole, successive comments together."""
    (tmp_path / "x.py").write_text(
        '"""Module."""\n'
        "class A:\n"
        '    """Class."""\n'
        "    @property\n"
        "    def size(self):\n"
        '        """(2,) size."""\n'
        "    def make(self):\n"
        '        """Make."""\n'
        "        return f'{self} is ' f'no {1}'  # one\n"
        "# two\n"
        "\n"
        "# three\n"
    )
    assert sorted(texts_of(tmp_path / "x.py")) == [
        Text(1, "Module.", "docstring"),
        Text(3, "Class.", "docstring"),
        Text(6, "(2,) size.", "docstring"),
        Text(8, "Make.", "function"),
        Text(9, "one\ntwo", "text"),
        Text(9, "{} is no {}", "text"),
        Text(12, "three", "text"),
    ]


def test_line_of_a_finding(tmp_path):
    """Code in a page is not prose, and its lines count."""
    page = tmp_path / "x.md"
    page.write_text("# X `anew`\n\n```bash\necho anew\n```\n\nIt is\nno file.\n")
    assert [finding.line for text in texts_of(page) for finding in search(text)] == [7]
