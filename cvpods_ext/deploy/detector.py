"""Detector that runs an exported graph, for Predictor, pods_test, pods_demo and pods_infer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.checkpoint.addresses import find_file
from cvpods.checkpoint.expectations import check_expectations
from cvpods.layers import cat
from cvpods.modeling.meta_arch import DenseDetector
from cvpods.modeling.meta_arch.network import Maps
from cvpods.structures import Boxes, ImageList, Instances
from cvpods.structures.samples import Detection, Sample
from cvpods.utils.errors import ConfigError, DataError
from cvpods_ext.deploy.graphs import anchors_of
from cvpods_ext.deploy.info import GraphInfo
from cvpods_ext.deploy.options import RESIZES
from cvpods_ext.deploy.sessions import Session, open_session


class GraphRunner:
    """Runner of a session for batches of any number of images up to the session's image size."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def one_size(self) -> bool:
        return self.session.size is not None

    def __call__(self, images: ImageList) -> dict[str, Tensor]:
        """Return the graph's outputs by name, for every image.

        Images are padded to the graph's size; batches larger than the graph's are split, smaller
        ones filled up with their last image.

        Raises:
            DataError: the images are larger than the graph's input, or an output is NaN.
        """
        tensor = self._padded(images.tensor.cpu())
        sizes = torch.tensor([tuple(size) for size in images.image_sizes])
        step = self.session.batch or len(tensor)
        parts = []
        for start in range(0, len(tensor), step):
            rows = torch.arange(start, start + step).clamp(max=len(tensor) - 1)
            feeds = {"input": tensor[rows], "image_sizes": sizes[rows]}
            found = self.session({name: feeds[name] for name in self.session.shapes})
            if wrong := [name for name, value in found.items() if value.isnan().any()]:
                raise DataError(
                    f"The graph's output {wrong[0]} is NaN: its weights are damaged, or FP16 "
                    "overflows. Export it again, without --half, from weights that are finite."
                )
            parts.append({name: value[: len(tensor) - start] for name, value in found.items()})
        return {name: cat([part[name] for part in parts]) for name in parts[0]}

    def _padded(self, tensor: Tensor) -> Tensor:
        if self.session.size is None:
            return tensor
        height, width = self.session.size
        below, right = height - tensor.shape[-2], width - tensor.shape[-1]
        if min(below, right) < 0:
            raise DataError(
                f"Images of {tensor.shape[-2]} x {tensor.shape[-1]} pixels (height x width) do not "
                f"fit into this graph's {height} x {width}. Leave INPUT.AUG.TEST_PIPELINES to "
                "TEST.GRAPH.RESIZE, or export with --size dynamic."
            )
        return F.pad(tensor, (0, right, 0, below))


class GraphNetwork:
    """Network of a detector that an exported graph computes; see meta_arch.network.Network.

    Args:
        runner: its graph has one output for each name and level, "cls_logits_p3".
        levels: of the pyramid, finest first.
        size_divisibility: of the network that was exported.
    """

    def __init__(self, runner: GraphRunner, levels: Sequence[str], size_divisibility: int) -> None:
        self.runner = runner
        self.levels = list(levels)
        self.size_divisibility = size_divisibility

    def __call__(self, images: ImageList) -> Maps:
        """Return the head's outputs by name, a map for each level."""
        found = self.runner(images)
        names = dict.fromkeys(name.rpartition("_")[0] for name in found)
        return {name: [found[f"{name}_{level}"] for level in self.levels] for name in names}


class GraphDetector(nn.Module):
    """Detector whose graph, of kind "detector", computes boxes, scores and labels.

    Args:
        runner: runs the graph.
        detector: the experiment's, which normalises images and scales boxes.
    """

    def __init__(self, runner: GraphRunner, detector: DenseDetector) -> None:
        super().__init__()
        self.runner = runner
        self.detector = detector

    @property
    def num_classes(self) -> int:
        return self.detector.num_classes

    @property
    def one_size(self) -> bool:
        """Return whether images of all sizes get one size, so that any may share a batch."""
        return self.runner.one_size

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Sample]) -> list[Detection]:
        """Return the detections of each input, as DenseDetector does in evaluation."""
        images = self.detector.preprocess_image(batched_inputs)
        found = self.runner(images)
        results: list[Detection] = []
        for i, inputs in enumerate(batched_inputs):
            real = found["labels"][i] >= 0
            result = Instances(
                tuple(images.image_sizes[i]),
                pred_boxes=Boxes(found["boxes"][i][real]),
                scores=found["scores"][i][real],
                pred_classes=found["labels"][i][real],
            )
            results.append({"instances": self.detector.postprocess(result, inputs)})
        return results


def load_graph(
    cfg: Any, build_model: Callable[[Any], nn.Module], path: str | Path
) -> tuple[nn.Module, list[str]]:
    """Return an experiment's detector that runs a graph, and the class names in the graph.

    A graph of kind "network" becomes DenseDetector.network: scores, NMS, TEST.AUG and NMS recall
    are the experiment's. A graph of kind "detector" replaces the detector.

    For a graph of fixed shape, cfg.INPUT.AUG.TEST_PIPELINES and TEST.IMS_PER_DEVICE are set to its
    size and batch; TEST.GRAPH.RESIZE names the way in which images get its size.

    Raises:
        ConfigError: method, classes, levels, anchors or input of the config differ from the
            graph's, or its post-processing differs from that of a detector's graph; TEST.GRAPH is
            wrong.
        CheckpointError: see open_session.
    """
    address = str(path)
    if cfg.TEST.GRAPH.RESIZE not in RESIZES:
        raise ConfigError(
            f"TEST.GRAPH.RESIZE must be one of {', '.join(RESIZES)}; got {cfg.TEST.GRAPH.RESIZE!r}."
        )
    file = find_file(address) if "://" in address else Path(path)
    session = open_session(file, cfg.TEST.GRAPH.PROVIDER, cfg.MODEL.DEVICE)
    cfg.MODEL.DEVICE = "cpu"  # PyTorch prepares images, decodes boxes and runs NMS there
    detector = _check(cfg, build_model(cfg).eval(), session.info, address)
    _fit_pipeline(cfg, session)
    logger.info(
        f"{address}: the {session.info.kind} of {session.info.detector}, by {session.device}."
    )
    return _assemble(detector, session), session.info.class_names


def _check(cfg: Any, detector: nn.Module, info: GraphInfo, address: str) -> DenseDetector:
    """Return the experiment's detector if the graph fits it.

    Raises:
        ConfigError: see load_graph.
    """
    own: dict[str, Any] = {"method": type(detector).__name__}
    if isinstance(detector, DenseDetector):
        own["classes"] = detector.num_classes
        own["levels"] = detector.in_features
        own["anchors of a location"] = anchors_of(detector)
    graph = (info.detector, info.num_classes, info.levels, info.anchors)
    wrong = [
        f"{what} {its!r} (here {value!r})"
        for (what, value), its in zip(own.items(), graph, strict=False)
        if its != value
    ]
    if wrong or not isinstance(detector, DenseDetector):
        raise ConfigError(
            f"{address} is the graph of another detector than this experiment's: "
            f"{', '.join(wrong)}. Run it in the experiment that it was exported from, or export "
            "this experiment's graph."
        )
    try:
        check_expectations(cfg, info.expects, f"The graph {address}")
    except ConfigError as error:
        raise ConfigError(f"{error} Or export the graph again with this config.") from None
    return detector


def _assemble(detector: DenseDetector, session: Session) -> nn.Module:
    """Return the detector with the session in the place of its network, or of all of it."""
    runner = GraphRunner(session)
    divisor = detector.network.size_divisibility
    # A graph of kind "detector" needs no network of its own; this drops the unused weights.
    detector.use_network(GraphNetwork(runner, detector.in_features, divisor))
    if session.info.kind == "detector":
        return GraphDetector(runner, detector)
    detector.one_size = runner.one_size
    return detector


def _fit_pipeline(cfg: Any, session: Session) -> None:
    """Set the config's batch and pipeline of evaluation to the graph's fixed shape, if any."""
    if session.batch is not None:
        cfg.TEST.IMS_PER_DEVICE = session.batch
    if session.size is not None:
        resize = RESIZES[cfg.TEST.GRAPH.RESIZE]
        cfg.INPUT.AUG.TEST_PIPELINES = [[resize, {"shape": list(session.size)}]]
