"""Measurements of ATSS: assigners, box voting, and the passes of its multi-scale test.

    python scripts/benchmark_atss.py assigners      # 800 x 1216, 27, 240 and 1,000 boxes
    python scripts/benchmark_atss.py voting         # compared with the loop of tests/reference
    python scripts/benchmark_atss.py passes --experiment playground/atss.dcnv2.res18.subset \
        --weights model_final.pth --images coco/val2017 --count 2

`assigners` compares ATSS with the other definitions of positives in its paper. Times are medians;
both sides of a ratio run in turn. Memory is the growth of the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark import atss_parts, peak_mib, random_targets, seconds  # noqa: E402

from cvpods.data.detection_utils import read_image  # noqa: E402
from cvpods.layers import box_voting  # noqa: E402
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation  # noqa: E402
from cvpods.tools import Predictor  # noqa: E402
from cvpods_ext.configs.fragments import ATSS_TTA  # noqa: E402
from cvpods_ext.methods.atss.detector import make_assigner  # noqa: E402
from tests.reference.box_voting import box_voting_loop  # noqa: E402

STRIDES = (8, 16, 32, 64, 128)


def benchmark_assigners(args: argparse.Namespace) -> None:
    """Measure each definition of positives on one image of 800 x 1216 with 20,267 anchors."""
    maps = [torch.zeros(1, 1, -(-800 // s), -(-1216 // s)) for s in STRIDES]
    levels = atss_parts().anchor_generator.grid(maps)
    anchors, sizes = torch.cat(levels), [len(level) for level in levels]
    print("| boxes | definition | time | peak memory |\n| --- | --- | --- | --- |")
    for count in (27, 240, 1000):
        (target,) = random_targets(count, images=1)
        for name in ("ATSS", "SSC", "IoU", "TOPK"):
            assigner = make_assigner(name, 9, [8 * s for s in STRIDES])
            work = partial(assigner, anchors, sizes, target.gt_boxes.tensor)
            milliseconds = seconds(work, args.repeats) * 1000
            print(f"| {count} | {name} | {milliseconds:.0f} ms | {peak_mib(work):.0f} MiB |")


def benchmark_voting(args: argparse.Namespace) -> None:
    """Compare the vote over 2,600 boxes (26 passes of 100; 1, 5 and 80 classes) with the loop."""
    generator = torch.Generator().manual_seed(0)
    objects = torch.rand(100, 4, generator=generator) * 400
    objects[:, 2:] = objects[:, :2] + objects[:, 2:] + 20
    boxes = objects.repeat(26, 1) + torch.randn(2600, 4, generator=generator) * 4
    scores = torch.rand(2600, generator=generator) * 0.9 + 0.05
    for num_classes in (1, 5, 80):
        classes = torch.randint(num_classes, (100,), generator=generator).repeat(26)
        vote = partial(box_voting, boxes, scores, classes, 0.66)
        lists = boxes.tolist(), scores.tolist(), classes.tolist()
        vote_in_loops = partial(box_voting_loop, *lists, threshold=0.66, soft=True)
        ours, loop = [], []
        for _ in range(args.repeats):
            ours.append(seconds(vote, 1))
            loop.append(seconds(vote_in_loops, 1))
        fast, slow = statistics.median(ours) * 1000, statistics.median(loop) * 1000
        print(f"{num_classes} classes: {fast:.1f} ms, loop {slow:.1f} ms, ratio {slow / fast:.1f}")


def benchmark_passes(args: argparse.Namespace) -> None:
    """Measure each pass of ATSS's multi-scale test on real images, one image at a time."""
    opts = [word for pair in ATSS_TTA.items() for word in pair]
    tta = Predictor.from_experiment(
        args.experiment, args.weights, opts=[*opts, "TEST.AUG.ENABLED", True]
    ).model.eval()
    assert isinstance(tta, TestTimeAugmentation)
    files = sorted(Path(args.images).iterdir())[: args.count]
    inputs = [{"image": torch.from_numpy(read_image(f)).permute(2, 0, 1)} for f in files]
    whole = _mean_seconds(tta, inputs)
    print("| short edge, cap | plain | with the mirrored pass |\n| --- | --- | --- |")
    for scale in tta.scales:
        times = []
        for flip in (False, True):
            one = TestTimeAugmentation(
                tta.detector, [scale], flip=flip, from_original=True, merge=tta.merge
            )
            times.append(_mean_seconds(one, inputs))
        print(f"| {scale.short_edge}, {scale.max_size} | {times[0]:.2f} s | {times[1]:.2f} s |")
    print(f"All 26 passes and the vote: {whole:.1f} s an image ({len(files)} images).")


def _mean_seconds(model: TestTimeAugmentation, inputs: list[dict]) -> float:
    """Return the mean time of an image in seconds."""
    start = time.perf_counter()
    for one in inputs:
        model([one])
    return (time.perf_counter() - start) / len(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (
        ("assigners", benchmark_assigners),
        ("voting", benchmark_voting),
        ("passes", benchmark_passes),
    ):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--repeats", type=int, default=5, help="timed calls")
        if name == "passes":
            command.add_argument("--experiment", default="playground/atss.dcnv2.res18.subset")
            command.add_argument("--weights", required=True, help="checkpoint")
            command.add_argument("--images", default="datasets/coco/val2017", help="folder")
            command.add_argument("--count", type=int, default=2, help="images")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
