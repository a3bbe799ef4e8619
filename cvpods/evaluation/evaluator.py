"""Run a detector over a data set and hand what it finds to an evaluator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from loguru import logger
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cvpods.utils import comm
from cvpods.utils.errors import CheckpointError
from cvpods.utils.logger import is_terminal
from cvpods.utils.stop import failing_together, stop_signal, stop_together


class DatasetEvaluator:
    """reset, process each batch, evaluate at the end.

    Attributes:
        provenance: where the numbers come from, see cvpods.evaluation.provenance; reports show it.
    """

    provenance: Mapping[str, Any] = {}

    def reset(self) -> None:
        """Forget everything processed."""
        raise NotImplementedError

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take one batch: what the model got and what it returned."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{task: {metric: value}} on rank 0, {} elsewhere."""
        raise NotImplementedError


@contextmanager
def inference_mode(model: nn.Module) -> Any:
    """No gradients, evaluation mode; the former mode returns afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_finite_weights(model: nn.Module) -> None:
    """Refuse weights that are infinite or NaN: such a model detects nothing, and its AP is 0.

    Raises:
        CheckpointError: names the first of these tensors.
    """
    named = chain(model.named_parameters(), model.named_buffers())
    wrong = [n for n, t in named if t.is_floating_point() and not t.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of the weights are infinite or NaN, for example {wrong[0]}: the "
            "file is damaged, or the training diverged. Take an earlier checkpoint."
        )


def inference_on_dataset(
    model: nn.Module, data_loader: DataLoader, evaluator: DatasetEvaluator, autocast: Any = None
) -> dict[str, dict[str, float]]:
    """Run `model` over this process's share of the data, once, and evaluate.

    Args:
        autocast: a context manager for the forward pass (mixed precision).

    Returns:
        The evaluator's results: on rank 0, {} elsewhere.

    Raises:
        CheckpointError: a weight is infinite or NaN.
        Stopped: a signal came to one of the processes; on all of them.
        PeerFailed: another process has failed; what it raises itself is its own error.
    """
    total, compute, images = len(data_loader), 0.0, 0
    start = time.perf_counter()
    bar = tqdm(data_loader, desc="inference", disable=not is_terminal(), leave=False)
    with failing_together(), inference_mode(model):
        check_finite_weights(model)
        evaluator.reset()
        for done, inputs in enumerate(bar, 1):
            began = time.perf_counter()
            if autocast is None:
                outputs = model(inputs)
            else:
                with autocast:
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
        f"device, on {comm.get_world_size()} devices), of it {compute:.1f} s in the model."
    )
    with failing_together():  # while rank 0 scores, the others wait as long as it takes
        results = evaluator.evaluate()
    return results
