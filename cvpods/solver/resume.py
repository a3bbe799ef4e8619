"""Optimiser state of a checkpoint for a run whose config may have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loguru import logger
from torch.optim import Optimizer

from cvpods.utils.errors import CheckpointError

# Options of parameter groups that come from the config and the model, not from a checkpoint. The
# schedule sets the learning rate.
_CONFIGURED = ("names", "weight_decay", "momentum")
# Options that identify the optimisers of older checkpoints.
_DISTINCTIVE = {"momentum", "betas"}


class OptimizerState:
    """The entry "optimizer" of a checkpoint; make it before a schedule changes the optimiser.

    A resumed run loads the optimiser's state of each parameter, such as the momentum buffer, by the
    parameter's name. The options weight decay and momentum are those of the run's own config.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.configured = [
            {key: group[key] for key in _CONFIGURED if key in group}
            for group in optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        kind = type(self.optimizer).__name__
        return {**self.optimizer.state_dict(), "kind": kind, "configured": self.configured}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Load a saved state.

        Raises:
            CheckpointError: the state is of another kind of optimiser.
        """
        self._check_kind(saved)
        self.optimizer.load_state_dict(_rearrange(saved, self.optimizer.state_dict()))
        if saved.get("configured") == self.configured:
            return  # a schedule may have moved these values
        for group, values in zip(self.optimizer.param_groups, self.configured, strict=True):
            group.update(values)

    def _check_kind(self, saved: Mapping[str, Any]) -> None:
        own, kind = type(self.optimizer).__name__, saved.get("kind")
        first = saved["param_groups"][0]
        missing = (_DISTINCTIVE & self.optimizer.param_groups[0].keys()) - first.keys()
        if kind not in (None, own) or missing:
            raise CheckpointError(
                f"it is of another SOLVER.OPTIMIZER.NAME ({kind or f'without {sorted(missing)}'})"
                f", whose state {own} cannot use. Either resume with the optimiser of the "
                "checkpoint, or start a new run from its weights: another OUTPUT_DIR, "
                "MODEL.WEIGHTS <this file>."
            )


def _rearrange(saved: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state in the groups of the run's own state, by the parameters' names."""
    saved_names = [group.get("names") for group in saved["param_groups"]]
    own_names = [group.get("names") for group in own["param_groups"]]
    if saved_names == own_names or None in saved_names or None in own_names:
        return {"state": saved["state"], "param_groups": saved["param_groups"]}
    numbers = _parameter_numbers(saved["param_groups"])
    own_numbers = _parameter_numbers(own["param_groups"])
    state = saved["state"]
    kept = {n: state[numbers[n]] for n in own_numbers if numbers.get(n) in state}
    if fresh := [name for name in own_numbers if name not in numbers]:
        logger.warning(f"The checkpoint's run did not train {', '.join(fresh[:5])}.")
    return {**own, "state": {own_numbers[name]: values for name, values in kept.items()}}


def _parameter_numbers(groups: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return {parameter's name: its number in an optimiser's state}."""
    return {
        name: number
        for group in groups
        for name, number in zip(group["names"], group["params"], strict=True)
    }
