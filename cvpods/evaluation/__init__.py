from cvpods.evaluation.coco_evaluation import COCOEvaluator, evaluate_boxes
from cvpods.evaluation.evaluator import DatasetEvaluator, inference_mode, inference_on_dataset
from cvpods.evaluation.nms_recall import NMSRecallEvaluator
from cvpods.evaluation.registry import EVALUATOR
from cvpods.evaluation.testing import (
    flatten_results_dict,
    print_csv_format,
    verify_results,
    without_nan,
)

__all__ = [
    "EVALUATOR",
    "COCOEvaluator",
    "DatasetEvaluator",
    "NMSRecallEvaluator",
    "evaluate_boxes",
    "flatten_results_dict",
    "inference_mode",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
    "without_nan",
]
