"""Evaluators and the reports that they write."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.evaluation.coco_evaluation import (
        COCOEvaluator,
        evaluate_boxes,
    )
    from cvpods.evaluation.evaluator import (
        DatasetEvaluator,
        inference_mode,
        inference_on_dataset,
    )
    from cvpods.evaluation.nms_recall import NMSRecallEvaluator
    from cvpods.evaluation.registry import EVALUATOR
    from cvpods.evaluation.testing import (
        flatten_results_dict,
        print_csv_format,
        verify_results,
        without_nan,
    )

__all__ = lazy_names(
    __name__,
    {
        "coco_evaluation": ["COCOEvaluator", "evaluate_boxes"],
        "evaluator": ["DatasetEvaluator", "inference_mode", "inference_on_dataset"],
        "nms_recall": ["NMSRecallEvaluator"],
        "registry": ["EVALUATOR"],
        "testing": ["flatten_results_dict", "print_csv_format", "verify_results", "without_nan"],
    },
)
