"""Samplers and the plan that splits a batch among processes."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.data.samplers.batch_plan import BatchPlan
    from cvpods.data.samplers.samplers import (
        InferenceSampler,
        SampleKey,
        SizeBatchSampler,
        TrainingBatchSampler,
        TrainingStream,
    )

__all__ = lazy_names(
    __name__,
    {
        "batch_plan": ["BatchPlan"],
        "samplers": [
            "InferenceSampler",
            "SampleKey",
            "SizeBatchSampler",
            "TrainingBatchSampler",
            "TrainingStream",
        ],
    },
)
