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

# Bounds of |difference| / max(1, |value|) of the network's outputs.
TOLERANCES = {False: 1e-4, True: 5e-2}


def verify(path: Path, detector: DenseDetector) -> float:
    """Run a written graph and its detector in FP32 on one batch of noise; log and return the
    largest difference, relative where values exceed 1.

    Raises:
        CheckpointError: it exceeds the bound of FP32 or FP16.
    """
    session = open_session(path)
    info = session.info
    graph = (DetectorGraph if info.kind == "detector" else NetworkGraph)(detector).eval()
    feeds = example_inputs(graph, InputShape(session.batch, session.size))
    noise = torch.randn(feeds["input"].shape, generator=torch.Generator().manual_seed(0))
    feeds["input"] = noise
    with torch.inference_mode():
        wanted = graph(**feeds)
    found = session(feeds)
    expected = dict(zip(info.outputs, wanted, strict=True))
    what = "outputs"
    if info.kind == "detector":
        what = f"scores of {int((expected['labels'] >= 0).sum())} detections"
        expected = {"scores": expected["scores"]}  # boxes of nearly equal ones change places
    worst = max(difference(found[name], value) for name, value in expected.items())
    bound = TOLERANCES[info.half]
    logger.info(f"Beside PyTorch in FP32, {what}: they differ by {worst:.1e} (bound {bound:.0e}).")
    if not worst <= bound:
        raise CheckpointError(
            f"{path} differs from PyTorch by {worst:.1e}, more than {bound:.0e}. The file is kept; "
            "do not use it."
        )
    return worst


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest |found - wanted| / max(1, |wanted|); infinite where shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    gap = (found.double() - wanted.double()).abs() / wanted.double().abs().clamp(min=1)
    return float(gap.max()) if gap.numel() else 0.0
