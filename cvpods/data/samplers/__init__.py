from cvpods.data.samplers.batch_plan import BatchPlan
from cvpods.data.samplers.samplers import (
    InferenceSampler,
    SampleKey,
    TrainingBatchSampler,
    TrainingStream,
)

__all__ = ["BatchPlan", "InferenceSampler", "SampleKey", "TrainingBatchSampler", "TrainingStream"]
