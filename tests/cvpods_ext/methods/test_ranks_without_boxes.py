"""AutoAssign and FeatureAlign in two processes of which one, or none, sees a box.

What two processes must agree on with one that sees all images, from the losses' formulas. Rank r
has n images (as many as any other), N_r boxes, sums P_r of the positive, Q_r of the negative loss
and G_r of the prior; R = 2 ranks; backward averages the gradients of the ranks' losses.

    mean of loss_pos       1/R sum_r alpha P_r / max(1, sum N / R) = alpha sum P / max(R, sum N)
    mean of loss_neg       the same of Q and G:       (1 - alpha) sum Q / max(R, sum G)
    mean of the third one  mean over r of means over n images = the mean over all images

One process divides by max(1, sum N) and max(1, sum G). So with at least two boxes and two units of
prior among all ranks, losses, gradients and steps are those of one process, whoever has the boxes.
Without any box, loss_neg, the only loss that is not 0, and all gradients are half of it.
"""

from __future__ import annotations

import faulthandler
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvpods.engine.launch import launch
from cvpods.engine.model import distribute
from cvpods.modeling.backbone.fpn import build_p3_p7_pyramid
from cvpods.solver.optimizer import build_optimizer
from cvpods.utils import comm
from cvpods_ext.methods.auto_assign import AutoAssign
from cvpods_ext.methods.feature_align import FeatureAlign
from cvpods_ext.methods.feature_align.attention import AttentionFPN
from tests.cvpods.modeling.test_dense_detectors import FIRST, NOTHING, ground_truth
from tests.cvpods_ext.methods.auto_assign.test_auto_assign_detector import (  # noqa: F401 - a fixture
    TinyBackbone,
    one_thread,
    tiny_config,
)

STEPS = 3
# A process that waits for the other one longer than this ends, and says where it hung.
SECONDS = 150
# The second image is padded to the size of the first, also where it is alone.
SIZES = [(64, 96), (50, 70)]
TRUTHS = {
    "boxes on rank 0": (FIRST, NOTHING),
    "boxes on rank 1": (NOTHING, ([[4, 4, 40, 30], [20, 10, 60, 45]], [2, 0])),
    "no boxes": (NOTHING, NOTHING),
}
# Method, values of its group, and whether bags are worked on in parts.
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "AutoAssign": ("AUTO_ASSIGN", {}, False),
    "AutoAssign in parts": ("AUTO_ASSIGN", {}, True),
    "learned": ("FEATURE_ALIGN", {"MDQ": "learned"}, False),
    "fixed": ("FEATURE_ALIGN", {"MDQ": "fixed"}, False),
    "shared": ("FEATURE_ALIGN", {"MDQ": "shared"}, True),
}
CASES = [
    (name, truth)
    for name in MODELS
    for truth in TRUTHS
    if truth != "boxes on rank 1" or name in ("AutoAssign", "learned")
]


def build(name: str) -> tuple[Any, nn.Module]:
    """Config and model; FeatureAlign's has attention and deformable towers.

    The network computes in float64, the losses in float32: a deformable convolution has kinks, on
    one side of which rounding in float32 would put one process, and two on the other.
    """
    method, values, in_parts = MODELS[name]
    config = tiny_config(method, **values)
    torch.manual_seed(0)
    if method == "AUTO_ASSIGN":
        backbone = build_p3_p7_pyramid(config, TinyBackbone())
        return config, with_parts(AutoAssign.from_config(config, backbone).double(), in_parts)
    attention = {"num_layers": 1, "num_heads": 2, "feedforward_dim": 16, "dropout": 0.0}
    make_fpn = partial(AttentionFPN, attention=attention)
    backbone = build_p3_p7_pyramid(config, TinyBackbone(), make_fpn)
    return config, with_parts(FeatureAlign.from_config(config, backbone).double(), in_parts)


def with_parts(model: AutoAssign, in_parts: bool) -> AutoAssign:
    """The model, with a loss of 60 pairs at once if `in_parts`; a box here has 15 to 100."""
    if in_parts:
        model.loss["pairs_at_once"] = 60
    return model


def inputs_of(truth: str) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": ground_truth(*boxes, size),
        }
        for boxes, size in zip(TRUTHS[truth], SIZES, strict=True)
    ]


def train(name: str, truth: str, steps: int = STEPS) -> dict[str, dict[str, Tensor]]:
    """Steps on this rank's image, or on both: losses and gradients of the first, last weights."""
    config, model = build(name)
    optimizer = build_optimizer(config, model)
    inputs = inputs_of(truth)
    distributed: nn.Module = model
    if comm.get_world_size() > 1:
        distributed = distribute(model, config.TRAINER.FIND_UNUSED_PARAMETERS)
        assert distributed is not model
        inputs = inputs[comm.get_rank() :][:1]
    result: dict[str, dict[str, Tensor]] = {}
    for step in range(steps):
        losses = distributed(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        if step == 0:
            result["losses"] = comm.reduce_dict({k: v.detach() for k, v in losses.items()})
            result["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step()
    result["weights"] = {n: p.detach().clone() for n, p in model.named_parameters()}
    return result


def train_all(path: Path) -> None:
    """What every process runs: all cases, each of which ends with the same weights everywhere."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    results = {}
    for name, truth in CASES:
        results[name, truth] = result = train(name, truth)
        same = comm.all_gather({n: w.numpy().tobytes() for n, w in result["weights"].items()})
        assert same[0] == same[1], (name, truth)
    if comm.is_main_process():
        torch.save(results, path)
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """Results of two processes by case; that they end is already worth something."""
    path = tmp_path_factory.mktemp("ranks") / "results.pth"
    launch(train_all, 2, args=(path,))
    return torch.load(path)


def check_close(actual: dict[str, Tensor], expected: dict[str, Tensor], factor: float = 1) -> None:
    """Up to rounding of sums in another order, in parts of each tensor's largest value."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        bound = 1e-5 * value.abs().max().item() + 1e-9
        assert (actual[name] - factor * value).abs().max() <= bound, name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "truth"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_two_processes_are_as_one(of_two, name, truth):
    """As derived above: the first losses and gradients, and the weights after three steps.

    Weights without any box are left out: two processes took steps of half the length.
    """
    steps, factor = (1, 0.5) if truth == "no boxes" else (STEPS, 1.0)
    one, two = train(name, truth, steps), of_two[name, truth]
    check_close(two["losses"], one["losses"], factor)
    check_close(two["gradients"], one["gradients"], factor)
    if truth == "no boxes":
        assert {k for k, loss in one["losses"].items() if loss != 0} == {"loss_neg"}
    else:
        assert all(loss > 0 for loss in one["losses"].values())
        check_close(two["weights"], one["weights"])
    is_trained = {key: (grad != 0).any().item() for key, grad in two["gradients"].items()}
    assert is_trained["head.cls_score.weight"] and is_trained["backbone.bottom_up.res3.weight"]
    if name == "fixed":
        assert not is_trained.keys() & {"mu", "sigma"}
    else:
        assert is_trained["mu"] is is_trained["sigma"] is (truth != "no boxes")
