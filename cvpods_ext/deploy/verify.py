"""Is a file's graph what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from cvpods.modeling.meta_arch import DenseDetector
from cvpods.utils.errors import CheckpointError
from cvpods_ext.deploy.export import InputShape, example_inputs
from cvpods_ext.deploy.graphs import DetectorGraph, NetworkGraph
from cvpods_ext.deploy.sessions import open_session

# Bounds of |difference| / max(1, |value|), of FP32 (False) and FP16 (True).
TOLERANCES = {False: 1e-4, True: 5e-2}


def verify(path: Path, detector: DenseDetector) -> float:
    """Run a written graph and its detector in FP32 on one batch of noise; log and return the
    largest difference: of the network's outputs, or of the detections; in FP16 of their scores, as
    boxes of nearly equal ones change places.

    Raises:
        CheckpointError: it exceeds the bound of FP32 or FP16, or a number is not finite.
    """
    session = open_session(path)
    info = session.info
    graph = (DetectorGraph if info.kind == "detector" else NetworkGraph)(detector).eval()
    feeds = example_inputs(graph, InputShape(session.batch, session.size))
    noise = torch.randn(feeds["input"].shape, generator=torch.Generator().manual_seed(0))
    feeds["input"] = noise
    with torch.inference_mode():
        wanted = dict(zip(info.outputs, graph(**feeds), strict=True))
    found = session(feeds)
    what = "outputs"
    if info.kind == "detector":
        count = int((wanted["labels"] >= 0).sum())
        what = f"{count} detections"
        if not count:
            logger.warning("Nothing is found in noise, so that no box, score or label is compared.")
    if info.kind == "detector" and not info.half:
        worst = detections_difference(found, wanted)
    else:
        names = ["scores"] if info.kind == "detector" else info.outputs
        worst = max(difference(found[name], wanted[name]) for name in names)
    bound = TOLERANCES[info.half]
    logger.info(f"Beside PyTorch in FP32, {what}: they differ by {worst:.1e} (bound {bound:.0e}).")
    if not worst <= bound:
        raise CheckpointError(
            f"{path} differs from PyTorch by {worst:.1e}, more than {bound:.0e}. The file is kept; "
            "do not use it."
        )
    return worst


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest |found - wanted| / max(1, |wanted|); infinite where shapes differ or a number is
    not finite.
    """
    if found.shape != wanted.shape or not (found.isfinite().all() and wanted.isfinite().all()):
        return float("inf")
    gap = (found.double() - wanted.double()).abs() / wanted.double().abs().clamp(min=1)
    return float(gap.max()) if gap.numel() else 0.0


def detections_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of boxes and scores of a DetectorGraph's outputs, each detection of
    an image held against the nearest of its label: those of nearly equal scores may change places.
    Infinite where one is left without a partner.
    """
    worst = 0.0
    for image in range(len(wanted["labels"])):
        rows = [_rows(outputs, image) for outputs in (found, wanted)]
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


def _rows(outputs: dict[str, Tensor], image: int) -> Tensor:
    """(J, 6) boxes, scores and labels of an image's detections; labels weigh most."""
    real = outputs["labels"][image] >= 0
    columns = outputs["scores"][image][real, None], 1e4 * outputs["labels"][image][real, None]
    return torch.cat([outputs["boxes"][image][real], *columns], dim=1).double()
