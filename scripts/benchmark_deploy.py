"""Speed and AP of exported graphs, compared with PyTorch in one run.

    python scripts/benchmark_deploy.py speed --experiment playground/free_anchor.res50.1x.mmdet
    python scripts/benchmark_deploy.py accuracy playground/atss.res18.shapes=model_final.pth ...

`speed` prints the median time of the network's forward pass on noise. All runtimes run in turn, and
the weights are random. `accuracy` prints the AP of each experiment, with the given weights, on its
test data set.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmark import timed

from cvpods.engine import RUNNERS
from cvpods.tools.detectors import load_detector
from cvpods.tools.experiment import open_experiment
from cvpods_ext.deploy.graphs import NetworkGraph
from cvpods_ext.deploy.performance import random_feeds
from cvpods_ext.deploy.precision import fold_batch_norms
from cvpods_ext.deploy.sessions import open_session
from cvpods_ext.tools.export import main as export


def random_weights(experiment: str, folder: Path) -> Path:
    """Save the weights of an untrained model and return the file."""
    config, build_model = open_experiment(experiment, device="cpu")
    torch.manual_seed(0)
    path = folder / "random.pth"
    torch.save({"model": build_model(config).state_dict()}, path)
    return path


def torch_sides(
    experiment: str, weights: Path, feeds: dict[str, Any], device: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the network in PyTorch: as trained, with folded norms, channels last, compiled."""
    given = {name: value.to(device) for name, value in feeds.items()}

    def side(compiled: bool = False, fold: bool = True, last: bool = False) -> Callable:
        config, build_model = open_experiment(experiment, device=device)
        model, _ = load_detector(config, build_model, weights)
        if fold:
            fold_batch_norms(model.eval())
        if last:
            model = model.to(memory_format=torch.channels_last)
        graph: Any = NetworkGraph(model).eval()
        graph = torch.compile(graph) if compiled else graph

        def work() -> None:
            with torch.inference_mode():
                graph(**given)

        return work

    yield "PyTorch eager", side(fold=False)
    yield "PyTorch eager, folded norms", side()
    yield "PyTorch eager, folded norms, channels last", side(last=True)
    yield "PyTorch compiled, folded norms, channels last", side(compiled=True, last=True)


def benchmark_speed(args: argparse.Namespace) -> None:
    """Print a table row for each runtime: median time, images/s, and the ratio to PyTorch eager."""
    height, width = (int(side) for side in args.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_weights(args.experiment, folder)
        shape = ["--batch", str(args.batch), "--size", args.size]
        for file, flags in (("fp32", []), ("fp16", ["--half"])):
            target = str(folder / f"{file}.onnx")
            export(
                ["--dir", args.experiment, "--weights", str(weights), "--output", target]
                + [*shape, "--simplify", *flags]
            )
        sessions = [
            ("onnxruntime, FP32", open_session(folder / "fp32.onnx", args.provider, args.device)),
            ("onnxruntime, FP16", open_session(folder / "fp16.onnx", args.provider, args.device)),
        ]
        if args.device == "cpu":
            sessions.append(("OpenVINO, FP32", open_session(folder / "fp32.onnx", "openvino")))
        feeds = random_feeds(sessions[0][1], args.batch, (height, width))
        sides = dict(torch_sides(args.experiment, weights, feeds, args.device))
        sides |= {name: session.bind(feeds) for name, session in sessions}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for work in sides.values():
            work()
            work()
        for _ in range(args.repeats):
            for name, work in sides.items():
                times[name].append(timed(work, args.device))
    print(f"{args.experiment}, {args.batch} x {args.size}, median of {args.repeats} runs")
    first = statistics.median(times["PyTorch eager"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.3f} s | {args.batch / median:.2f} | {first / median:.2f} |")


def ap_of(experiment: str, weights: str | Path) -> tuple[float, float]:
    """Return AP and AP50 on the experiment's test data set."""
    with tempfile.TemporaryDirectory() as output:
        config, build_model = open_experiment(experiment, ["OUTPUT_DIR", output], device="cpu")
        model, _ = load_detector(config, build_model, weights)
        box = RUNNERS.get(config.TRAINER.NAME).test(config, model)["bbox"]
        return box["AP"], box["AP50"]


def benchmark_accuracy(args: argparse.Namespace) -> None:
    """Print a table row for each experiment: AP (AP50) of PyTorch and of each kind of graph."""
    graphs = {
        "ONNX FP32": [],
        "ONNX FP16": ["--half"],
        "ONNX FP32, post-processing inside": ["--with-postprocess"],
    }
    rows = []
    for pair in args.pairs:
        experiment, _, weights = pair.partition("=")
        found = [ap_of(experiment, weights)]
        for flags in graphs.values():
            with tempfile.TemporaryDirectory() as name:
                target = str(Path(name) / "graph.onnx")
                export(["--dir", experiment, "--weights", weights, "--output", target, *flags])
                found.append(ap_of(experiment, target))
        rows.append((Path(experiment).name, found))
    print(f"| experiment | {' | '.join(['PyTorch', *graphs])} |")
    for name, found in rows:
        print(f"| {name} | {' | '.join(f'{ap:.2f} ({ap50:.2f})' for ap, ap50 in found)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = parser.add_subparsers(required=True)
    speed = parts.add_parser("speed", help="time of the forward pass")
    speed.add_argument("--experiment", default="playground/free_anchor.res50.1x.mmdet")
    speed.add_argument("--batch", type=int, default=1, help="images in a pass")
    speed.add_argument("--size", default="800x1344", help="height x width in pixels")
    speed.add_argument("--repeats", type=int, default=10, help="timed passes")
    speed.add_argument("--device", default="cpu", help="PyTorch's device")
    speed.add_argument("--provider", default="auto", help="onnxruntime's provider")
    speed.set_defaults(run=benchmark_speed)
    accuracy = parts.add_parser("accuracy", help="AP on the test data set")
    accuracy.add_argument("pairs", nargs="+", metavar="EXPERIMENT=WEIGHTS")
    accuracy.set_defaults(run=benchmark_accuracy)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
