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

__all__ = [
    "OPTIMIZER_BUILDER",
    "SCHEDULER_BUILDER",
    "OptimizerState",
    "WarmupCosineLR",
    "WarmupLR",
    "WarmupMultiStepLR",
    "build_lr_scheduler",
    "build_optimizer",
    "clip_gradients",
    "parameter_groups",
]
