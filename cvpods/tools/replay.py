"""Replay of a step with a loss or gradient that was not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from cvpods.checkpoint import load_weights, read_file
from cvpods.configs import BaseConfig
from cvpods.engine.model import autocast, prepare_model
from cvpods.engine.nonfinite import unpack_batch
from cvpods.structures.samples import Sample
from cvpods.tools.experiment import BuildModel
from cvpods.utils.env import select_device, set_torch_rng_state
from cvpods.utils.errors import CheckpointError

Batches = list[list[Sample]]

_NEEDED = ("iteration", "losses", "batches", "rng", "total", "world_size", "cause")


def replay(config: BaseConfig, build_model: BuildModel, path: Path) -> str:
    """Run the step of a nonfinite_*.pt file once more and return a report.

    Its weights, images, boxes and random numbers come from the file. The report has the losses as
    recorded, as replayed in the training's precision and in float32; the losses of each image
    alone; and the first module whose output is not finite.

    Raises:
        CheckpointError: it is not such a file, or it is of another model.
    """
    content = read_file(path)
    missing = [key for key in _NEEDED if key not in content]
    if missing:
        raise CheckpointError(
            f"{path} is not a nonfinite_*.pt file of a training run: it lacks {missing}."
        )
    config.MODEL.DEVICE = select_device(config.MODEL.DEVICE)
    model = prepare_model(config, build_model).train()
    load_weights(model, content["model"], strict=True)
    batches = [unpack_batch(batch) for batch in content["batches"]]

    culprit = _FirstNotFinite(model)
    trained = _losses(config, model, batches, content, full=False)
    culprit.close()
    full = _losses(config, model, batches, content, full=True)
    recorded = content["losses"]
    rows = [(name, recorded[name], trained.get(name), full.get(name)) for name in recorded]
    return "\n\n".join(
        [
            f"Iteration {content['iteration']}, rank {content.get('rank', 0)} of "
            f"{content['world_size']}, cause: {content['cause']}, norm of the weights "
            f"{content.get('weights_norm', math.nan):.6g}. {_compare(recorded, trained, content)}",
            tabulate(rows, headers=["loss", "recorded", "replayed", "in float32"]),
            _image_table(model, batches, content),
            culprit.describe(_not_finite(model.named_parameters())),
            *([_gradients(model, batches, content)] if content["cause"] == "gradients" else []),
        ]
    )


def _losses(
    config: BaseConfig, model: nn.Module, batches: Batches, content: dict[str, Any], full: bool
) -> dict[str, float]:
    """Return the losses of the step, weighted as in training; `full` computes in float32."""
    set_torch_rng_state(content["rng"])
    device = next(model.parameters()).device.type
    sums: dict[str, float] = {}
    for data in batches:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            if full:
                losses = model(data)
            else:
                with autocast(config, device):
                    losses = model(data)
        for name, value in losses.items():
            weight = len(data) * content["world_size"] / content["total"]
            sums[name] = sums.get(name, 0.0) + value.item() * weight
    return sums


def _gradients(model: nn.Module, batches: Batches, content: dict[str, Any]) -> str:
    """Return a sentence on the parameters with gradients that are not finite, in float32."""
    set_torch_rng_state(content["rng"])
    for data in batches:
        sum(value for value in model(data).values() if value.requires_grad).backward()
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    return f"Gradients that are not finite: {', '.join(_not_finite(named)[:5]) or 'none'}."


def _compare(
    recorded: dict[str, float], replayed: dict[str, float], content: dict[str, Any]
) -> str:
    """Return a sentence that tells whether the replay has the recorded losses."""
    same = all(
        math.isclose(value, replayed.get(name, math.nan), rel_tol=1e-5)
        or (not math.isfinite(value) and not math.isfinite(replayed.get(name, 0.0)))
        for name, value in recorded.items()
    )
    if same:
        return "The replay gives the same losses."
    several = content["world_size"] > 1
    why = " Normalisers were averaged over several processes then." if several else ""
    return f"The replay gives other losses: is this the same config?{why}"


def _image_table(model: nn.Module, batches: Batches, content: dict[str, Any]) -> str:
    """Return a table of the losses of every image alone, in float32; not finite ones come first."""
    rows = []
    for sample in (sample for batch in batches for sample in batch):
        set_torch_rng_state(content["rng"])
        with torch.no_grad():
            losses = {name: value.item() for name, value in model([sample]).items()}
        name = sample.get("file_name", sample.get("image_id", "?"))
        boxes = sample["instances"].gt_boxes.tensor if "instances" in sample else torch.empty(0, 4)
        side = float((boxes[:, 2:] - boxes[:, :2]).min()) if len(boxes) else None
        size = " x ".join(str(s) for s in sample["image"].shape[-2:])
        total = sum(value for key, value in losses.items() if "loss" in key)
        rows.append((name, sample.get("seed"), size, len(boxes), side, total))
    rows.sort(key=lambda row: (math.isfinite(row[-1]), 0.0 if row[-1] != row[-1] else -row[-1]))
    headers = ["image", "seed", "size", "boxes", "shortest side", "loss alone"]
    return tabulate(rows, headers=headers)


def _not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of tensors that are not finite."""
    return [name for name, value in named if not bool(value.isfinite().all())]


class _FirstNotFinite:
    """Search for the first module, in the order in which they run, with an output not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.found: str | None = None
        leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
        self._hooks = [module.register_forward_hook(self._hook(name)) for name, module in leaves]

    def _hook(self, name: str) -> Callable[..., None]:
        """Return a forward hook that remembers a module with an output that is not finite."""

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.found is None and isinstance(output, Tensor):
                if not bool(output.detach().isfinite().all()):
                    self.found = f"{name} ({type(module).__name__})"

        return look

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def describe(self, parameters: list[str]) -> str:
        """Return a sentence on what was found; `parameters` are those that are not finite."""
        if parameters:
            return f"The weights themselves are not finite: {', '.join(parameters[:5])}."
        if self.found is None:
            return "Every module's output is finite: look at the losses, or at the gradients."
        return f"The first output that is not finite: {self.found}."
