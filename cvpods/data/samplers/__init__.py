from cvpods.data.samplers.batch_plan import BatchPlan
from cvpods.data.samplers.samplers import (
    InferenceSampler,
    SampleKey,
    SizeBatchSampler,
    TrainingBatchSampler,
    TrainingStream,
)

__all__ = [
    "BatchPlan",
    "InferenceSampler",
    "SampleKey",
    "SizeBatchSampler",
    "TrainingBatchSampler",
    "TrainingStream",
]
