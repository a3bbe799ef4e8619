"""Optimizers and learning-rate schedules."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.solver.lr_scheduler import (
        SCHEDULER_BUILDER,
        WarmupCosineLR,
        WarmupLR,
        WarmupMultiStepLR,
        build_lr_scheduler,
    )
    from cvpods.solver.optimizer import (
        OPTIMIZER_BUILDER,
        build_optimizer,
        clip_gradients,
        parameter_groups,
    )
    from cvpods.solver.resume import OptimizerState

__all__ = lazy_names(
    __name__,
    {
        "lr_scheduler": [
            "SCHEDULER_BUILDER",
            "WarmupCosineLR",
            "WarmupLR",
            "WarmupMultiStepLR",
            "build_lr_scheduler",
        ],
        "optimizer": ["OPTIMIZER_BUILDER", "build_optimizer", "clip_gradients", "parameter_groups"],
        "resume": ["OptimizerState"],
    },
)
