"""Normalisation layers and activations, built by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import BatchNorm2d
from torch.nn import functional as F

from cvpods.utils.errors import ConfigError

# The name of cvpods; torch's layer computes the same statistics over all ranks.
NaiveSyncBatchNorm = nn.SyncBatchNorm


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and affine parameters, all of them buffers.

    It starts as the identity: weight 1, bias 0, mean 0, variance 1 - eps.
    """

    _version = 3
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        bias = self.bias - self.running_mean * scale
        if x.requires_grad:  # a fused affine keeps one tensor for backward, batch_norm keeps two
            scale, bias = scale.to(x.dtype).view(1, -1, 1, 1), bias.to(x.dtype).view(1, -1, 1, 1)
            return torch.addcmul(bias, x, scale)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args: object
    ) -> None:
        version = local_metadata.get("version", None)
        variance = f"{prefix}running_var"
        if version is not None and version < 3 and variance in state_dict:
            state_dict[variance] = state_dict[variance] - self.eps  # eps was added on saving
        if (version is None or version < 2) and f"{prefix}weight" in state_dict:
            # affine-only files of Caffe2
            state_dict.setdefault(f"{prefix}running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(variance, torch.ones_like(self.running_var) - self.eps)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __repr__(self) -> str:
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Return `module` with every BatchNorm2d and SyncBatchNorm replaced by a frozen one."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            names = [name for name, _ in frozen.named_buffers()]
            for name, tensor in module.state_dict().items():
                if name in names:
                    frozen.register_buffer(name, tensor.to(torch.float32, copy=True))
            return frozen
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


class EvalBatchNorm2d(BatchNorm2d):
    """Batch normalisation with fixed statistics and a learned affine map: mmdetection's norm_eval.

    Unlike in FrozenBatchNorm2d, weight and bias train. Unlike in BatchNorm2d, training mode makes
    no difference.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm with 32 groups.

    Raises:
        ConfigError: `channels` is not a multiple of 32.
    """
    if channels % 32:
        raise ConfigError(
            f"Norm 'GN' has 32 groups: its channels must be a multiple of 32; got {channels} (a "
            "detector's towers have MODEL.FPN.OUT_CHANNELS)."
        )
    return nn.GroupNorm(32, channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "EvalBN": EvalBatchNorm2d,
    "GN": group_norm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Return the norm of a name (see _NORMS) or of a callable of the channels; None for "".

    Raises:
        ConfigError: the name is unknown.
    """
    if not norm:
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise ConfigError(f"The norm must be one of {', '.join(_NORMS)} and ''; got {norm!r}.")
        norm = _NORMS[norm]
    return norm(out_channels)


def get_activation(activation: dict | None) -> nn.Module | None:
    """Return the activation of {"NAME": "ReLU" or "ReLU6", "INPLACE": bool}; None for None.

    Raises:
        ConfigError: the name is unknown.
    """
    if activation is None:
        return None
    classes = {"ReLU": nn.ReLU, "ReLU6": nn.ReLU6}
    name = activation["NAME"]
    if name not in classes:
        raise ConfigError(f"The activation must be one of {', '.join(classes)}; got {name!r}.")
    return classes[name](inplace=activation.get("INPLACE", True))
