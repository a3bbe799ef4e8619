"""From a config to a model on its device, and the precision that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cvpods.engine.memory import OutOfMemory, first_line, is_out_of_memory
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def maybe_convert_module(model: nn.Module) -> nn.Module:
    """SyncBN works in a process group of more than one process on GPUs only; else make it BN."""
    if comm.get_world_size() > 1 and torch.cuda.is_available():
        return model
    for name, child in model.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
            plain.load_state_dict(child.state_dict())
            setattr(model, name, plain)
        else:
            maybe_convert_module(child)
    return model


def autocast(cfg: Any, device_type: str) -> Any:
    """Mixed precision as TRAINER.AMP says; a context that does nothing where it is off."""
    amp = cfg.TRAINER.AMP
    if amp.ENABLED and amp.DTYPE not in _DTYPES:
        raise ConfigError(f"TRAINER.AMP.DTYPE must be one of {list(_DTYPES)}, got {amp.DTYPE!r}.")
    return torch.autocast(device_type, dtype=_DTYPES.get(amp.DTYPE), enabled=bool(amp.ENABLED))


def prepare_model(cfg: Any, build_model: Callable[[Any], nn.Module]) -> nn.Module:
    """Build the model, on its device, in the memory layout and compiled as TRAINER says.

    Raises:
        OutOfMemory: it does not fit.
    """
    try:
        model = maybe_convert_module(build_model(cfg)).to(cfg.MODEL.DEVICE)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"The model does not fit into memory: {first_line(error)}") from error
    if cfg.TRAINER.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    if cfg.TRAINER.COMPILE:
        for part in (getattr(model, "backbone", None), getattr(model, "head", None)):
            if isinstance(part, nn.Module):
                part.compile(dynamic=True)  # in place: state-dict keys stay
    return model
