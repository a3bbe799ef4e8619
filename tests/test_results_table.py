"""scripts/make_results_table.py: the table of README.md is that of the folders."""

from __future__ import annotations

import pytest

from tests.load_script import ROOT, load_script

COMMAND = "python scripts/make_results_table.py"


script = load_script("scripts/make_results_table.py")


def test_readme_is_up_to_date():
    """The table has a row for each folder; its mark names the command that writes it again."""
    readme = (ROOT / "README.md").read_text()
    assert readme.count(script.BEGIN) == readme.count(script.END) == 1
    assert readme == script.with_table(readme), f"the results table is old; run: {COMMAND}"
    table = readme.partition(script.BEGIN)[2].partition(script.END)[0]
    folders = sorted(path.parent.name for path in (ROOT / "playground").glob("*/config.py"))
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    assert [row.split(" | ")[0] for row in rows] == [f"| [{f}](playground/{f})" for f in folders]
    assert all(row.count("|") == 6 for row in rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arXiv:1, table 2: 38.7 AP (minival), 39.1 (test-dev)", "38.7 / 39.1"),
        ("release of 10/2019: 40 AP (minival), 41.25 (test-dev)", "40 / 41.25"),
        ("mmdetection's 40.3 AP (minival)", "40.3 / -"),
        (
            "e2x: 43.2 AP (minival), 43.9 (test-dev); multi-scale test: 44.7 AP (minival), "
            "45.2 (test-dev)",
            "43.2 / 43.9; multi-scale test 44.7 / 45.2",
        ),
        ("43.2 AP (minival); multi-scale 44.7 AP (minival)", "43.2 / -; multi-scale test 44.7 / -"),
        (
            "43.2 AP (minival), 43.9 (test-dev); multi-scale 44.7 AP (minival)",
            "43.2 / 43.9; multi-scale test 44.7 / -",
        ),
        ("none; a small network on small synthetic images", "-"),
        ("", "-"),
    ],
)
def test_ap_of_the_paper(text, expected):
    assert script.paper_ap(text) == expected


def test_description_joins_lines(tmp_path):
    """A line that begins with a space continues an entry; the file has other strings, too."""
    (tmp_path / "config.py").write_text(
        '"""FreeAnchor, ResNet-50-FPN, 1x.\n'
        "\n"
        "Paper     arXiv:1909.02466: 38.7 AP (minival),\n"
        "          38.7 (test-dev)\n"
        "Expected  38.7 +- 0.3 AP\n"
        "Run       pods_train --num-gpus 8\n"
        "          pods_test TEST.AUG.ENABLED True          # the paper's test\n"
        '"""\n'
        "\n"
        'x = """Measured  99"""\n'
    )
    described = script.describe(tmp_path)
    assert described == {
        "title": "FreeAnchor, ResNet-50-FPN, 1x",
        "Paper": "arXiv:1909.02466: 38.7 AP (minival), 38.7 (test-dev)",
        "Expected": "38.7 +- 0.3 AP",
        "Run": "pods_train --num-gpus 8 "
        "pods_test TEST.AUG.ENABLED True          # the paper's test",
    }
    assert script.paper_ap(described["Paper"]) == "38.7 / 38.7"


@pytest.mark.parametrize(
    ("measured", "expected"),
    [("", "not measured"), ("Measured  38.5\n          (val)\n", "38.5 (val)")],
)
def test_row(tmp_path, monkeypatch, measured, expected):
    """1 234 567 parameters are 1.2 M."""
    folder = tmp_path / "atss.res50.1x"
    folder.mkdir()
    text = f'"""ATSS, 1x.\n\nPaper     table 3: 39.3 AP (minival), 39.2 (test-dev)\n{measured}"""\n'
    (folder / "config.py").write_text(text)
    monkeypatch.setattr(script, "count_parameters", lambda folder: 1_234_567)
    assert script.row(folder) == (
        "| [atss.res50.1x](playground/atss.res50.1x) | ATSS, 1x | 39.3 / 39.2 | "
        f"{expected} | 1.2 M |\n"
    )


def test_parameters():
    """As many as the experiment's real network has."""
    folder = ROOT / "playground" / "atss.res18.shapes"
    config, build_model = script.load_experiment(folder)
    config.MODEL.DEVICE = "cpu"
    expected = sum(p.numel() for p in build_model(config).parameters())
    assert script.count_parameters(folder) == expected > 1e6


def test_only_the_text_between_the_marks_changes(monkeypatch):
    monkeypatch.setattr(script, "table", lambda: "| new |\n")
    readme = f"# Title\n\nbefore\n{script.BEGIN}\n\n| old |\n| older |\n\n{script.END}\nafter\n"
    written = script.with_table(readme)
    assert written == f"# Title\n\nbefore\n{script.BEGIN}\n\n| new |\n\n{script.END}\nafter\n"
    assert script.with_table(written) == written
