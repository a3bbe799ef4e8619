"""scripts/make_model_zoo.py: docs/model_zoo.md is that of the folders."""

from __future__ import annotations

import re

from tests.load_script import ROOT, load_script

script = load_script("scripts/make_model_zoo.py")


def test_the_page_is_up_to_date():
    written = (ROOT / "docs" / "model_zoo.md").read_text()
    assert written == script.page(), "the page is old; run: python scripts/make_model_zoo.py"
    rows = [line for line in written.splitlines() if line.startswith("| [")]
    folders = sorted(path.parent.name for path in (ROOT / "playground").glob("*/config.py"))
    assert [row.split("]")[0] for row in rows] == [f"| [{name}" for name in folders]
    assert all(row.count("|") == 7 for row in rows)


def test_measurements_have_a_date_and_a_commit():
    """An experiment without a measurement says so."""
    for path in (ROOT / "playground").glob("*/config.py"):
        about = script.describe(path.parent)
        assert ("Measured" in about) == ("Recorded" in about), path.parent.name
        if "Recorded" in about:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d, [0-9a-f]{7}", about["Recorded"])
        else:
            assert "| not measured | - |" in script.row(path.parent)


def test_a_row(tmp_path):
    """A folder with every entry fills every cell."""
    folder = tmp_path / "atss.res50.1x"
    folder.mkdir()
    source = (ROOT / "playground" / "atss.res50.1x" / "config.py").read_text()
    lines = "Measured  39.4 AP\nRecorded  2027-01-02, 0123abc\nWeights   cvpods://x, `00ff`\n"
    (folder / "config.py").write_text(source.replace("Differs", f"{lines}Differs", 1))
    net = (ROOT / "playground" / "atss.res50.1x" / "net.py").read_text()
    (folder / "net.py").write_text(net)
    assert script.row(folder).split(" | ") == [
        "| [atss.res50.1x](../playground/atss.res50.1x)",
        "39.3 / 39.3",
        "39.4 AP",
        "2027-01-02, 0123abc",
        "`detectron2://ImageNetPretrained/MSRA/R-50.pkl`",
        "cvpods://x, `00ff` |\n",
    ]
