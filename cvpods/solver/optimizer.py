"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cvpods.solver.eager import SGD, AdamW
from cvpods.utils.errors import ConfigError
from cvpods.utils.registry import Registry
from cvpods.utils.torch_private import norm_class

if TYPE_CHECKING:
    from cvpods.configs.config_dict import ConfigDict

OPTIMIZER_BUILDER = Registry("SOLVER.OPTIMIZER.NAME")

_NORMS = (norm_class(), nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_bias: float | None = None,
    bias_lr_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the trainable parameters, grouped by (learning rate, weight decay).

    Parameters of norm layers decay by `weight_decay_norm`, others by `weight_decay`. Biases have
    `bias_lr_factor` times the learning rate, and decay by `weight_decay_bias` unless it is None.
    Each group lists the "names" of its parameters, so that a resumed run finds their state again
    when the groups have changed.

    Raises:
        ConfigError: the model does not have a trainable parameter.
    """
    groups: dict[tuple[float, float], dict[str, nn.Parameter]] = defaultdict(dict)
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr = base_lr
            decay = weight_decay_norm if isinstance(module, _NORMS) else weight_decay
            if name == "bias":
                lr *= bias_lr_factor
                decay = decay if weight_decay_bias is None else weight_decay_bias
            groups[lr, decay][f"{prefix}.{name}".lstrip(".")] = parameter
    if not groups:
        raise ConfigError("The model has no parameter that trains.")
    return [
        {"params": list(named.values()), "names": list(named), "lr": lr, "weight_decay": decay}
        for (lr, decay), named in groups.items()
    ]


def _config_groups(model: nn.Module, cfg: ConfigDict) -> list[dict[str, Any]]:
    optimizer = cfg.SOLVER.OPTIMIZER
    return parameter_groups(
        model,
        base_lr=optimizer.BASE_LR,
        weight_decay=optimizer.WEIGHT_DECAY,
        weight_decay_norm=optimizer.WEIGHT_DECAY_NORM,
        weight_decay_bias=optimizer.get("WEIGHT_DECAY_BIAS"),
        bias_lr_factor=optimizer.BIAS_LR_FACTOR,
    )


@OPTIMIZER_BUILDER.register(name="SGD")
@OPTIMIZER_BUILDER.register(name="D2SGD")
def build_sgd(model: nn.Module, cfg: ConfigDict) -> torch.optim.SGD:
    """Build SGD with momentum."""
    return SGD(_config_groups(model, cfg), momentum=cfg.SOLVER.OPTIMIZER.MOMENTUM)


@OPTIMIZER_BUILDER.register(name="AdamW")
def build_adamw(model: nn.Module, cfg: ConfigDict) -> torch.optim.AdamW:
    """Build Adam with decoupled weight decay, in one fused kernel."""
    return AdamW(_config_groups(model, cfg), fused=True)


def build_optimizer(cfg: ConfigDict, model: nn.Module) -> torch.optim.Optimizer:
    """Build cfg.SOLVER.OPTIMIZER.NAME over the model's trainable parameters."""
    return OPTIMIZER_BUILDER.get(cfg.SOLVER.OPTIMIZER.NAME)(model, cfg)


def clip_gradients(
    parameters: Iterable[Tensor], *, clip_type: str, clip_value: float, norm_type: float
) -> None:
    """Clip gradients in place.

    Args:
        clip_type: "value" clips each element, "norm" each parameter's gradient by its norm,
            "full_model" all gradients by their joint norm.

    Raises:
        ConfigError: `clip_type` is another one.
    """
    parameters = [p for p in parameters if p.grad is not None]
    if clip_type == "value":
        for gradient in (p.grad for p in parameters if p.grad is not None):
            gradient.clamp_(-clip_value, clip_value)
    elif clip_type == "norm":
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, clip_value, norm_type)
    elif clip_type == "full_model":
        nn.utils.clip_grad_norm_(parameters, clip_value, norm_type)
    else:
        raise ConfigError(
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'value', 'norm' or 'full_model'; "
            f"got {clip_type!r}."
        )
