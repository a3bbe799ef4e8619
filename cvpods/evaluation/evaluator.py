"""Base class of evaluators, and the loop that evaluates a detector on a data set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from loguru import logger
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cvpods.structures.samples import Detection, Sample
from cvpods.utils import comm
from cvpods.utils.errors import CheckpointError
from cvpods.utils.logger import is_terminal
from cvpods.utils.stop import failing_together, stop_signal, stop_together


class DatasetEvaluator:
    """Base class of evaluators: reset() before the data, process() each batch, then evaluate().

    Attributes:
        provenance: origin of the results, shown in reports, see cvpods.evaluation.provenance.
    """

    provenance: Mapping[str, Any] = {}

    def reset(self) -> None:
        """Discard everything processed so far."""
        raise NotImplementedError

    def process(self, inputs: Sequence[Sample], outputs: Sequence[Detection]) -> None:
        """Process one batch: the inputs of the model and its outputs."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return {task: {metric: value}} on rank 0, and {} on other ranks."""
        raise NotImplementedError


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode without gradients; restore the former modes afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_finite_weights(model: nn.Module) -> None:
    """Check that the weights are finite; a model with other weights detects nothing.

    Raises:
        CheckpointError: a tensor is infinite or NaN; the message names the first of them.
    """
    named = chain(model.named_parameters(), model.named_buffers())
    wrong = [n for n, t in named if t.is_floating_point() and not t.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of the weights are infinite or NaN, for example {wrong[0]}: the "
            "file is damaged, or the training diverged. Use an earlier checkpoint."
        )


def inference_on_dataset(
    model: nn.Module,
    data_loader: DataLoader,
    evaluator: DatasetEvaluator,
    autocast: AbstractContextManager[Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Run `model` once over this process's share of the data, and evaluate.

    Args:
        autocast: a reusable context manager for the forward pass (mixed precision).

    Returns:
        The evaluator's results on rank 0, and {} on other ranks.

    Raises:
        CheckpointError: a weight is infinite or NaN.
        Stopped: one of the processes received a stop signal; raised on all of them.
        PeerFailed: another process failed; that process raises its own error.
    """
    total, compute, images = len(data_loader), 0.0, 0
    start = time.perf_counter()
    bar = tqdm(data_loader, desc="inference", disable=not is_terminal(), leave=False)
    with failing_together(), inference_mode(model):
        check_finite_weights(model)
        evaluator.reset()
        for done, inputs in enumerate(bar, 1):
            began = time.perf_counter()
            with autocast or nullcontext():
                outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            compute += time.perf_counter() - began
            evaluator.process(inputs, outputs)
            images += len(inputs)
            if stop_signal() is not None:
                break
            if done % max(total // 5, 50) == 0:
                seconds = (time.perf_counter() - start) / images
                logger.info(f"Inference done {done}/{total}. {seconds:.4f} s / img.")
    stop_together()
    elapsed = time.perf_counter() - start
    logger.info(
        f"Total inference time: {elapsed:.1f} s ({elapsed / max(images, 1):.4f} s / sample per "
        f"device, on {comm.get_world_size()} devices), {compute:.1f} s of it in the model."
    )
    with failing_together():  # other ranks wait for rank 0, which computes the results
        results = evaluator.evaluate()
    return results
