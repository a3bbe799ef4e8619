"""The model of a config, on its device, and the precision in which it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cvpods.engine.error_kinds import first_line, is_out_of_memory
from cvpods.engine.memory import OutOfMemory
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def maybe_convert_module(model: nn.Module) -> nn.Module:
    """Replace every SyncBN by BN, except in several processes on GPUs, where alone SyncBN works."""
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


def autocast(cfg: BaseConfig, device_type: str) -> torch.autocast:
    """Return the context of TRAINER.AMP's mixed precision, which does nothing if that is off.

    Raises:
        ConfigError: TRAINER.AMP.DTYPE is unknown.
    """
    amp = cfg.TRAINER.AMP
    if amp.ENABLED and amp.DTYPE not in _DTYPES:
        raise ConfigError(f"TRAINER.AMP.DTYPE must be one of {list(_DTYPES)}; got {amp.DTYPE!r}.")
    return torch.autocast(device_type, dtype=_DTYPES.get(amp.DTYPE), enabled=bool(amp.ENABLED))


def prepare_model(cfg: BaseConfig, build_model: Callable[[BaseConfig], nn.Module]) -> nn.Module:
    """Build the model on its device, in TRAINER's memory layout, and compile it if asked to.

    Raises:
        OutOfMemory: the model does not fit into memory.
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


def distribute(model: nn.Module, find_unused_parameters: bool) -> nn.Module:
    """Return the model with gradients averaged over the processes; the model itself if alone."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    options: dict[str, Any] = {"device_ids": [torch.cuda.current_device()] if on_gpu else None}
    # The name of the option depends on the version of torch.
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options[buffers] = False
    return DistributedDataParallel(model, find_unused_parameters=find_unused_parameters, **options)
