"""Small untrained detectors of every method, whose scores spread so that they find something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvpods.modeling.meta_arch import DenseDetector
from cvpods.tools.experiment import open_experiment
from cvpods_ext.tools.export import main as export
from tests.load_script import ROOT

# method: (experiment, its group of cfg.MODEL)
EXPERIMENTS = {
    "free_anchor": ("free_anchor.res18.shapes", "FREE_ANCHOR"),
    "atss": ("atss.res18.shapes", "ATSS"),
    "auto_assign": ("auto_assign.res18.shapes", "AUTO_ASSIGN"),
    "feature_align": ("feature_align.res18.shapes", "FEATURE_ALIGN"),
    "retinanet": ("retinanet.res18.shapes", "RETINANET"),
    "fcos": ("fcos.mobilenetv2.bccd", "FCOS"),
}


def folder_of(method: str) -> Path:
    return ROOT / "playground" / EXPERIMENTS[method][0]


def small_opts(method: str) -> list[Any]:
    """Return overrides for a narrow pyramid and one convolution in each tower."""
    group = EXPERIMENTS[method][1]
    opts = ["MODEL.FPN.OUT_CHANNELS", 32, f"MODEL.{group}.NUM_CONVS", 1]
    if method == "feature_align":
        opts += ["MODEL.FEATURE_ALIGN.ATTENTION.NUM_LAYERS", 1]
    return opts


def two_levels(method: str) -> list[Any]:
    """Return overrides for a head on two levels, one of them from the pyramid's top block.

    Tracing takes a time in proportion to the levels. FreeAnchor keeps all, as other tests need that
    graph too.
    """
    if method == "free_anchor":
        return []
    opts: list[Any] = [f"MODEL.{EXPERIMENTS[method][1]}.IN_FEATURES", "['p3', 'p5']"]
    if method == "retinanet":
        opts += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 20, 25], [64, 80, 101]]"]
    if method == "fcos":
        opts += ["MODEL.FCOS.OBJECT_SIZES_OF_INTEREST", "[[-1, 64], [64, 1e8]]"]
    return opts


def small_config(method: str, opts: Any = ()) -> tuple[Any, Any]:
    """Return (config, build_model) on the CPU."""
    return open_experiment(folder_of(method), [*small_opts(method), *opts], device="cpu")


def small_detector(method: str, opts: Any = ()) -> DenseDetector:
    cfg, build_model = small_config(method, opts)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if method == "fcos":
        _give_maps_unit_variance(model.backbone.bottom_up)
    nn.init.zeros_(model.head.cls_score.bias)
    nn.init.normal_(model.head.cls_score.weight, std=0.2)
    nn.init.normal_(model.head.bbox_pred.weight, std=0.1)
    return model


def _give_maps_unit_variance(backbone: nn.Module) -> None:
    """Rescale MobileNet's weights, which start so small that its maps would vanish."""

    def rescale(conv: nn.Conv2d, _: Any, output: torch.Tensor) -> torch.Tensor:
        conv.weight.data /= output.std()
        return output / output.std()

    convs = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(rescale) for conv in convs]
    with torch.no_grad():
        backbone(torch.randn(1, 3, 96, 96))
    for hook in hooks:
        hook.remove()


def name_of(method: str, *flags: str) -> str:
    """Return the name of the file that export_small writes."""
    suffix = "pt2" if "pt2" in flags else "onnx"
    return f"{method}{''.join(flags)}.{suffix}".replace(":", "_")


def export_small(method: str, folder: Path, *flags: str) -> Path:
    """Export small_detector's weights, saved beside the graph, by pods_export.

    Args:
        flags: flags of pods_export, then KEY VALUE overrides of the model.
    """
    first = next((i for i, flag in enumerate(flags) if flag.startswith("MODEL.")), len(flags))
    weights, target = folder / f"{method}.pth", folder / name_of(method, *flags)
    torch.save({"model": small_detector(method, flags[first:]).state_dict()}, weights)
    settings = [str(word) for word in small_opts(method)]
    export(
        ["--dir", str(folder_of(method)), "--weights", str(weights), "--output", str(target)]
        + [*flags, *settings]
    )
    return target


def noise_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return an image (3, H, W) uint8 of coarse squares."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, 256, (1, 3, height // 8, width // 8), generator=generator)
    return nn.functional.interpolate(cells.float(), (height, width))[0].byte()


def as_inputs(images: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Return a batch whose images state twice their size as the original size."""
    return [
        {"image": image, "height": image.shape[1] * 2, "width": image.shape[2] * 2}
        for image in images
    ]
