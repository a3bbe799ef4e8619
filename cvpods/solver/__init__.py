from cvpods.solver.lr_scheduler import (
    SCHEDULER_BUILDER,
    WarmupCosineLR,
    WarmupMultiStepLR,
    build_lr_scheduler,
)
from cvpods.solver.optimizer import (
    OPTIMIZER_BUILDER,
    build_optimizer,
    clip_gradients,
    parameter_groups,
)

__all__ = [
    "OPTIMIZER_BUILDER",
    "SCHEDULER_BUILDER",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "build_lr_scheduler",
    "build_optimizer",
    "clip_gradients",
    "parameter_groups",
]
