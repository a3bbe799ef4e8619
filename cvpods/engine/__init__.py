"""The training run: runner, hooks, launcher, set-up."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.engine.base_runner import RunnerBase
    from cvpods.engine.defaults import default_setup
    from cvpods.engine.hooks import HookBase
    from cvpods.engine.launch import launch
    from cvpods.engine.runner import (
        RUNNERS,
        DefaultRunner,
    )

__all__ = lazy_names(
    __name__,
    {
        "base_runner": ["RunnerBase"],
        "defaults": ["default_setup"],
        "hooks": ["HookBase"],
        "launch": ["launch"],
        "runner": ["RUNNERS", "DefaultRunner"],
    },
)
