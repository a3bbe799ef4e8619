"""Train every method on small data with one budget, and print the tables of docs/comparison.md.

    python scripts/compare_methods.py shapes
    python scripts/compare_methods.py bccd --weights mobilenet_v2_features.pth

Runs that have finished in the output folder are not repeated. A run with other settings is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ASSIGN_ONLY = (
    "MODEL.FEATURE_ALIGN.ATTENTION.ENABLED", "False",
    "MODEL.FEATURE_ALIGN.USE_DCN_IN_TOWER", "False",
)  # fmt: skip
# Title of a table row -> (name of its runs, experiment, overrides).
Rows = dict[str, tuple[str, str, tuple[str, ...]]]
SHAPES: Rows = {
    "ATSS": ("atss", "atss.res18.shapes", ()),
    "FreeAnchor": ("free_anchor", "free_anchor.res18.shapes", ()),
    "AutoAssign": ("auto_assign", "auto_assign.res18.shapes", ()),
    "FeatureAlign, assignment only": ("fa_assign", "feature_align.res18.shapes", ASSIGN_ONLY),
    "FeatureAlign": ("fa_full", "feature_align.res18.shapes", ()),
}
BCCD: Rows = {
    title: (method, f"{method}.mobilenetv2.bccd", ())
    for title, method in {
        "RetinaNet": "retinanet",
        "FCOS": "fcos",
        "ATSS": "atss",
        "FreeAnchor": "free_anchor",
        "AutoAssign": "auto_assign",
        "FeatureAlign": "feature_align",
    }.items()
}


def resize(*short_edges: int) -> str:
    """Return a resizing step with these short edges as the text of an override."""
    arguments = {"short_edge_length": short_edges, "max_size": 400, "sample_style": "choice"}
    return repr(("ResizeShortestEdge", arguments))


# Overrides for a CPU. A run takes 8 to 15 minutes on the shapes, with their own schedule, and 2
# to 4 minutes on bccd, with a shorter one.
BUDGETS: dict[str, tuple[str, ...]] = {
    "shapes": (),
    "bccd": (
        "SOLVER.LR_SCHEDULER.MAX_ITER", "100", "SOLVER.LR_SCHEDULER.STEPS", "()",
        "INPUT.AUG.TRAIN_PIPELINES", f"[{resize(192, 208, 224, 240, 256)}, ('RandomFlip', {{}})]",
        "INPUT.AUG.TEST_PIPELINES", f"[{resize(224)}]",
    ),
}  # fmt: skip


def train(experiment: str, seed: int, output: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Train and test, unless the results exist; return the results on boxes."""
    results, settings = output / "inference" / "results.json", Path(f"{output}.settings.json")
    words = [experiment, "SEED", str(seed), "DATALOADER.NUM_WORKERS", "1", *overrides]
    if not results.is_file():
        print(f"{experiment}, seed {seed} -> {output}", file=sys.stderr, flush=True)
        pods_train = str(Path(sys.executable).with_name("pods_train"))
        folder = str(ROOT / "playground" / experiment)
        command = [pods_train, "--dir", folder, *words[1:], "OUTPUT_DIR", str(output)]
        output.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(words), encoding="utf-8")
        with open(f"{output}.log", "w", encoding="utf-8") as log:
            status = subprocess.run(command, stdout=log, stderr=log).returncode
        if status:
            sys.exit(f"{experiment}, seed {seed}, failed; see {output}.log")
    elif not settings.is_file() or json.loads(settings.read_text(encoding="utf-8")) != words:
        sys.exit(f"{output} holds a run with other settings; remove it, or name another --output")
    return json.loads(results.read_text(encoding="utf-8"))["bbox"]


def row(title: str, results: Sequence[dict[str, float]]) -> str:
    """Return the table row: title, mean AP, mean AP50, AP of each seed."""
    means = [f"{statistics.mean(r[name] for r in results):.1f}" for name in ("AP", "AP50")]
    seeds = ", ".join(f"{r['AP']:.1f}" for r in results)
    return f"| {title} | {' | '.join(means)} | {seeds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the methods on small data.")
    parser.add_argument("data", choices=BUDGETS, help="data set")
    parser.add_argument("--weights", help="file of MobileNetV2's features, for bccd")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    output = ROOT / "outputs" / "comparison"
    parser.add_argument("--output", type=Path, default=output, help="folder (%(default)s)")
    args = parser.parse_args()
    if args.data == "bccd" and not (args.weights and os.path.isfile(args.weights)):
        parser.error(f"bccd needs --weights with an existing file; got {args.weights}")
    overrides = BUDGETS[args.data]
    if args.data == "bccd":
        overrides = (*overrides, "MODEL.WEIGHTS", os.path.abspath(args.weights))
    print("| method | AP | AP50 | AP of each seed |\n| --- | --- | --- | --- |")
    rows = SHAPES if args.data == "shapes" else BCCD
    for title, (name, experiment, own) in rows.items():
        results = [
            train(experiment, seed, args.output / f"{args.data}.{name}.{seed}", (*overrides, *own))
            for seed in args.seeds
        ]
        print(row(title, results), flush=True)


if __name__ == "__main__":
    main()
