"""Registry of evaluators, by the evaluator type of a data set."""

from cvpods.utils.registry import Registry

EVALUATOR = Registry("evaluator", ["cvpods.evaluation.coco_evaluation"])
