"""Measurements for docs/benchmarks.md.

    python scripts/benchmark.py data --images PATH/coco/train2017
    python scripts/benchmark.py loss
    python scripts/benchmark.py evaluation
    python scripts/benchmark.py step

Each comparison measures both sides in one run, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cvpods.configs.config_dict import ConfigDict
from cvpods.data.detection_utils import read_image
from cvpods.data.transforms import build_transform_gens
from cvpods.evaluation import evaluate_boxes
from cvpods.modeling.anchor_generator import AnchorGrid
from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods.structures import Boxes, Instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import FROM_SCRATCH, RES50
from cvpods_ext.methods.atss import ATSS, ATSSConfig


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of `repeats` calls of `work` in seconds, after a first call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _memory_kib(field: str) -> int:
    """Return VmRSS (resident memory now) or VmHWM (its peak) of this process in KiB, on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0])


def peak_mib(work: Callable[[], object]) -> float:
    """Return the growth of the peak resident memory during `work`, in MiB."""
    work()  # so that the libraries' own buffers exist
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # returns free memory to the system
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = _memory_kib("VmRSS")
    work()
    return (_memory_kib("VmHWM") - before) / 1024


def memory(work: Callable[[], object], device: str) -> float:
    """Return the peak growth of the process's memory, or of a GPU's allocator, in MiB."""
    if device == "cpu":
        return peak_mib(work)
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def timed(work: Callable[[], object], device: str) -> float:
    """Return the time of one call in seconds, including the work that it starts on the GPU."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_sides(
    title: str, sides: Mapping[str, Callable[[], Tensor]], repeats: int, device: str
) -> None:
    """Call two sides in turn, first "ours"; print their values, median times and peak memory."""
    values = {name: work().item() for name, work in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            times[name].append(timed(work, device))
    medians = {name: statistics.median(t) for name, t in times.items()}
    peaks = {name: memory(work, device) for name, work in sides.items()}
    for name in sides:
        print(
            f"{title}, {name}: loss {values[name]:.4f}, {medians[name]:.3f} s, "
            f"peak {peaks[name]:.0f} MiB"
        )
    ours, other = sides
    print(
        f"  {other} / {ours}: time {medians[other] / medians[ours]:.1f}, "
        f"memory {peaks[other] / peaks[ours]:.1f}"
    )


def loss_benchmark(
    description: str,
    compare: Callable[[int, int, str], None],
    crowd: Callable[[int, str], None],
) -> None:
    """Run a loss benchmark from its command line.

    Without flags it calls `compare` for 27 and for 240 boxes an image; with --crowd, only `crowd`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--crowd", action="store_true", help="measure 1,000 boxes in one image")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls (%(default)s)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="device (%(default)s)")
    args = parser.parse_args()
    if args.crowd:
        crowd(args.repeats, args.device)
        return
    for boxes in (27, 240):
        compare(boxes, args.repeats, args.device)


# -- data pipeline ---------------------------------------------------------------------------------


def benchmark_data(args: argparse.Namespace) -> None:
    """Compare decoding, resizing to 800 / 1333 and flipping with PIL's, in one worker."""
    torch.set_num_threads(1)
    paths = sorted(Path(args.images).glob("*.jpg"))[: args.count]
    if not paths:
        raise SystemExit(
            f"error: {args.images} has no .jpg files; name another folder with --images"
        )
    resize = {"short_edge_length": 800, "max_size": 1333, "sample_style": "choice"}
    steps = build_transform_gens([("ResizeShortestEdge", resize), ("RandomFlip", {"prob": 1.0})])

    def ours(path: Path) -> Tensor:
        image = read_image(path, "BGR")
        for step in steps:
            image, _ = step(image, [])
        return torch.from_numpy(image).permute(2, 0, 1)

    def pil(path: Path) -> Tensor:
        image = Image.open(path).convert("RGB")
        width, height = image.size
        scale = min(800 / min(width, height), 1333 / max(width, height))
        size = int(width * scale + 0.5), int(height * scale + 0.5)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))[:, :, ::-1]
        flipped = np.flip(pixels, axis=1)
        return torch.as_tensor(np.ascontiguousarray(flipped.transpose(2, 0, 1)))

    difference = max((ours(p).int() - pil(p).int()).abs().max().item() for p in paths[:10])
    times: dict[str, list[float]] = {"ours": [], "PIL": []}
    for _ in range(args.repeats):
        for name, pipeline in (("ours", ours), ("PIL", pil)):
            start = time.perf_counter()
            for path in paths:
                pipeline(path)
            times[name].append(time.perf_counter() - start)
    rates = {name: len(paths) / statistics.median(values) for name, values in times.items()}
    print(f"{len(paths)} images, largest difference {difference} grey levels")
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} images/s")
    print(f"ratio {rates['ours'] / rates['PIL']:.2f}")


# -- loss ------------------------------------------------------------------------------------------


class _Levels:
    """Sizes (H, W) of the maps of an 800 x 1216 image at strides 8 to 128."""

    sizes = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)]
    count = sum(h * w for h, w in sizes)


def atss_parts(num_classes: int = 80) -> ATSS:
    """Build ATSS without a network: anchors, assignment and losses alone."""
    strides = [8, 16, 32, 64, 128]
    anchors = AnchorGrid(
        sizes=[[8 * s] for s in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.5
    )
    return ATSS(
        backbone=torch.nn.Identity(),
        head=torch.nn.Identity(),
        anchor_generator=anchors,
        in_features=["p3"],
        num_classes=num_classes,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    )


def random_targets(count: int, images: int = 2) -> list[Instances]:
    """Draw `count` boxes for each image of 800 x 1216 pixels, of small to large sizes."""
    random = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(images):
        low = torch.rand(count, 2, generator=random) * torch.tensor([1100.0, 700.0])
        size = 16 + torch.rand(count, 2, generator=random) ** 2 * 300
        boxes = torch.cat([low, low + size], dim=1)
        classes = torch.randint(80, (count,), generator=random)
        targets.append(Instances((800, 1216), gt_boxes=Boxes(boxes), gt_classes=classes))
    return targets


def benchmark_loss(args: argparse.Namespace) -> None:
    """Measure ATSS's assignment and losses, forward and backward: 800 x 1216, batch 2."""
    model = atss_parts()
    maps = [torch.zeros(2, 1, h, w) for h, w in _Levels.sizes]
    priors = model.priors(maps)
    shapes = {"cls_logits": 80, "box_deltas": 4, "centerness": 1}
    outputs = {
        name: torch.randn(2, _Levels.count, channels) * 0.1 - (4 if channels == 80 else 0)
        for name, channels in shapes.items()
    }
    for count in (27, 240, 1000):
        targets = random_targets(count)

        def work(targets: list[Instances] = targets) -> None:
            leaves = {name: value.clone().requires_grad_() for name, value in outputs.items()}
            torch.stack([*model.losses(leaves, priors, targets).values()]).sum().backward()

        memory = peak_mib(work)
        duration = seconds(work, args.repeats)
        print(f"{count} boxes an image: {duration * 1000:.0f} ms, peak memory {memory:.0f} MiB")


# -- evaluation ------------------------------------------------------------------------------------


def synthetic_evaluation(images: int, seed: int = 0) -> tuple[dict, list[dict]]:
    """Make ground truth with 7 boxes an image over 80 classes, and 100 detections an image."""
    random = np.random.default_rng(seed)
    annotations: list[dict] = []
    detections: list[dict] = []
    for image in range(images):
        boxes = np.concatenate([random.uniform(0, 400, (7, 2)), random.uniform(8, 200, (7, 2))], 1)
        classes = random.integers(1, 81, 7)
        for box, label in zip(boxes.tolist(), classes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        picked = random.integers(0, 7, 100)
        found = boxes[picked] + random.normal(0, 8, (100, 4))
        found[:, 2:] = found[:, 2:].clip(1)
        for box, label, score in zip(
            found.tolist(), classes[picked].tolist(), random.random(100).tolist(), strict=True
        ):
            detections.append(
                {"image_id": image, "category_id": label, "bbox": box, "score": score}
            )
    truth = {
        "info": {},
        "images": [{"id": i, "height": 600, "width": 600} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, 81)],
        "annotations": annotations,
    }
    return truth, detections


def benchmark_evaluation(args: argparse.Namespace) -> None:
    """Compare this project's COCO evaluation with pycocotools on 5,000 synthetic images."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, detections = synthetic_evaluation(args.count)
    start = time.perf_counter()
    metrics, _, _ = evaluate_boxes(truth, detections)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    theirs = time.perf_counter() - start
    difference = abs(metrics["AP"] - evaluation.stats[0] * 100)
    print(f"{args.count} images, {len(detections)} detections; AP differs by {difference:.2e}")
    print(f"ours {ours:.1f} s, pycocotools {theirs:.1f} s, ratio {theirs / ours:.1f}")


# -- training step ---------------------------------------------------------------------------------


def _res50() -> ConfigDict:
    return compose(ATSSConfig, RES50, FROM_SCRATCH, {"MODEL.RESNETS.NORM": "FrozenBN"})


def _training_step(device: str, channels_last: bool, bf16: bool) -> Callable[[], None]:
    """Build the model and a batch; return the step on them."""
    torch.manual_seed(0)
    cfg = _res50()
    model = ATSS.from_config(cfg, backbone=build_resnet_fpn_p3_p7(cfg)).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    images = (torch.randint(0, 256, (3, 512, 640), dtype=torch.uint8) for _ in range(2))
    batch = [
        {"image": image, "instances": target}
        for image, target in zip(images, random_targets(10), strict=True)
    ]

    def work() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            losses = model(batch)
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return work


def benchmark_step(args: argparse.Namespace) -> None:
    """Measure a training step (forward, losses, backward, SGD) of ATSS R-50, 512 x 640, batch 2."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for channels_last in (False, True):
        for bf16 in (False, True):
            work = _training_step(device, channels_last, bf16)
            memory = peak_mib(work) if device == "cpu" else 0.0
            duration = seconds(work, args.repeats)
            if device == "cuda":
                memory = torch.cuda.max_memory_allocated() / 2**20
                torch.cuda.reset_peak_memory_stats()
            print(
                f"{device} channels_last={channels_last!s:5} bf16={bf16!s:5}: "
                f"{duration:.2f} s, peak memory {memory:.0f} MiB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the figures of docs/benchmarks.md.")
    commands = parser.add_subparsers(required=True)
    for name, function, repeats, count in (
        ("data", benchmark_data, 3, 100),
        ("loss", benchmark_loss, 5, 0),
        ("evaluation", benchmark_evaluation, 1, 5000),
        ("step", benchmark_step, 3, 0),
    ):
        command = commands.add_parser(name, help=(function.__doc__ or "").strip())
        command.add_argument("--repeats", type=int, default=repeats, help="timed calls")
        command.add_argument("--count", type=int, default=count, help="images")
        folder = "datasets/coco/train2017"
        command.add_argument("--images", default=folder, help="folder of .jpg files, for data")
        command.set_defaults(run=function)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
