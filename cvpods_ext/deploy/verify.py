"""Comparison of a written graph with its detector in PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from cvpods.modeling.meta_arch import DenseDetector
from cvpods.utils.errors import CheckpointError
from cvpods_ext.deploy.export import example_inputs
from cvpods_ext.deploy.graphs import DetectorGraph, NetworkGraph
from cvpods_ext.deploy.options import InputShape
from cvpods_ext.deploy.sessions import open_session

# Bounds of |difference| / max(1, |value|), for FP32 (False) and FP16 (True).
TOLERANCES = {False: 1e-4, True: 5e-2}


def verify(path: Path, detector: DenseDetector) -> float:
    """Compare a written graph with its detector in FP32, on one batch of noise.

    The outputs of a network and the detections of a detector are compared. For a detector in FP16
    only the scores are, because boxes of nearly equal scores change places.

    Returns:
        The largest difference, which is also logged.

    Raises:
        CheckpointError: the difference exceeds TOLERANCES, or a number is not finite.
    """
    session = open_session(path)
    info = session.info
    graph = (DetectorGraph if info.kind == "detector" else NetworkGraph)(detector).eval()
    feeds = example_inputs(graph, InputShape(session.batch, session.size))
    noise = torch.randn(feeds["input"].shape, generator=torch.Generator().manual_seed(0))
    feeds["input"] = noise
    with torch.inference_mode():
        expected = dict(zip(info.outputs, graph(**feeds), strict=True))
    actual = session(feeds)
    compared = "outputs"
    if info.kind == "detector":
        count = int((expected["labels"] >= 0).sum())
        compared = f"{count} detections"
        if not count:
            logger.warning("The detector finds nothing in noise: no box, score or label compares.")
    if info.kind == "detector" and not info.half:
        worst = detections_difference(actual, expected)
    else:
        names = ["scores"] if info.kind == "detector" else info.outputs
        worst = max(difference(actual[name], expected[name]) for name in names)
    bound = TOLERANCES[info.half]
    logger.info(
        f"Comparison with PyTorch in FP32: {compared} differ by {worst:.1e} (bound {bound:.0e})."
    )
    if not worst <= bound:
        raise CheckpointError(
            f"{path} differs from PyTorch by {worst:.1e}, more than {bound:.0e}. The file is kept; "
            "do not use it."
        )
    return worst


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest |actual - expected| / max(1, |expected|).

    The result is infinite if the shapes differ or a number is not finite.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if not (actual.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    gap = (actual.double() - expected.double()).abs() / expected.double().abs().clamp(min=1)
    return float(gap.max()) if gap.numel() else 0.0


def detections_difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference between the boxes and scores of two DetectorGraph outputs.

    Each detection is compared with the nearest one of its label in the same image, because
    detections of nearly equal scores may change places. The result is infinite if the detections
    cannot be paired.
    """
    worst = 0.0
    for image in range(len(expected["labels"])):
        rows = [_detection_rows(outputs, image) for outputs in (actual, expected)]
        if len(rows[0]) != len(rows[1]):
            return float("inf")
        if not len(rows[0]):
            continue
        distances = torch.cdist(rows[0], rows[1], p=float("inf"))
        partners = distances.argmin(dim=1)
        if len(partners.unique()) != len(partners):
            return float("inf")
        worst = max(worst, difference(rows[0], rows[1][partners]))
    return worst


def _detection_rows(outputs: dict[str, Tensor], image: int) -> Tensor:
    """Return the boxes, scores and scaled labels (J, 6) of an image's detections.

    The factor of the labels keeps detections of different labels far apart.
    """
    real = outputs["labels"][image] >= 0
    columns = outputs["scores"][image][real, None], 1e4 * outputs["labels"][image][real, None]
    return torch.cat([outputs["boxes"][image][real], *columns], dim=1).double()
