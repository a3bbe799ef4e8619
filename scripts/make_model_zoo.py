"""Write docs/model_zoo.md from the experiment folders.

    python scripts/make_model_zoo.py

Each row comes from the docstring of a folder's config.py: Paper, Measured, Recorded (date and
commit of the measurement) and Weights (address and SHA-256 of a published checkpoint), and from
its config (the address of the backbone's weights).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_results_table import ROOT, describe, paper_ap  # noqa: E402

from cvpods.tools.experiment import load_experiment  # noqa: E402

PATH = ROOT / "docs" / "model_zoo.md"
INTRODUCTION = """# Model zoo

`python scripts/make_model_zoo.py` writes this page from the folders of `playground/`. "Published"
is the AP that the paper or its authors' code reports (minival / test-dev). "Measured" is the AP
that this code reached, with the date and the commit that recorded it. Experiments on COCO are "not
measured": nothing here was trained on COCO, which takes days on GPUs.

This project has not published a checkpoint yet. Files of other projects work unchanged: `pods_test
MODEL.WEIGHTS x.pth` reads those of mmdetection, maskrcnn-benchmark, detectron2, torchvision and
cvpods (see [weights.md](weights.md)). To make a checkpoint for this page, run `pods_convert
model_final.pth --strip`. It prints the line with the SHA-256; write the address and the hash into
the folder's docstring as "Weights".

| experiment | published AP | measured AP | recorded | backbone | checkpoint |
| --- | --- | --- | --- | --- | --- |
"""


def row(folder: Path) -> str:
    """Return the table row of an experiment."""
    about = describe(folder)
    config, _ = load_experiment(folder)
    cells = [
        f"[{folder.name}](../playground/{folder.name})",
        paper_ap(about["Paper"]),
        about.get("Measured", "not measured"),
        about.get("Recorded", "-"),
        f"`{config.MODEL.WEIGHTS}`" if config.MODEL.WEIGHTS else "-",
        about.get("Weights", "-"),
    ]
    return f"| {' | '.join(cells)} |\n"


def page() -> str:
    """Return the text of the page."""
    folders = sorted(path.parent for path in (ROOT / "playground").glob("*/config.py"))
    return INTRODUCTION + "".join(row(folder) for folder in folders)


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
    print(f"wrote {PATH}")
