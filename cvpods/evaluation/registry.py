"""Evaluators by the type that a data set names."""

from cvpods.utils.registry import Registry

EVALUATOR = Registry("evaluator", ["cvpods.evaluation.coco_evaluation"])
