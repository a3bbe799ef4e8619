"""torch's optimizers without the compiler's bookkeeping, for steps that are not compiled.

torch wraps methods of its optimizers so that torch.compile can skip them. The wrappers import the
compiler (torch._dynamo) on their first call, which takes as long as the import of torch itself. The
classes here call the wrapped methods directly; they compute the same, bit for bit.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


class _Eager:
    """Mix-in that replaces the wrapped methods that all optimizers share."""

    add_param_group: Any = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad: Any = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict: Any = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict: Any = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class SGD(_Eager, torch.optim.SGD):
    """torch.optim.SGD."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class AdamW(_Eager, torch.optim.AdamW):
    """torch.optim.AdamW."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
