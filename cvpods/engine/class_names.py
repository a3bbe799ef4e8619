"""Comparison of the class names that weights were trained with to those of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from tabulate import tabulate
from torch import Tensor, nn

from cvpods.data import build_dataset
from cvpods.structures import Instances
from cvpods.structures.samples import Sample
from cvpods.utils.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig

# The largest number of classes that a message lists.
_SHOWN = 100


class ClassMismatch(ConfigError):
    """The classes of the weights differ from those of the data set."""


def class_names_of(meta: Any) -> list[str]:
    """Return the class names of a data set's meta; [] if it has none."""
    values = meta if isinstance(meta, Mapping) else vars(meta)
    return list(values.get("thing_classes") or [])


def class_order(
    trained: Sequence[str], wanted: Sequence[str], dataset_name: str, by_position: bool = False
) -> list[int] | None:
    """Return, for each class of the model, the number of the data set's class of the same name.

    Args:
        trained: names that the weights were trained with; empty if the weights have none.
        wanted: names of the data set.
        dataset_name: for messages.
        by_position: accept other names or another order: class i stays class i.

    Returns:
        One number for each class; None if the classes need no mapping.

    Raises:
        ClassMismatch: the names differ; the message shows both lists side by side.
    """
    trained, wanted = list(trained), list(wanted)
    if by_position or len(trained) != len(wanted) or trained == wanted:
        return None  # check_num_classes() compares the numbers
    if set(trained) != set(wanted) or len(set(wanted)) != len(wanted):
        raise _mismatch(trained, wanted, dataset_name)
    return [wanted.index(name) for name in trained]


class MappedClasses(nn.Module):
    """A detector whose predicted classes are renumbered.

    Args:
        detector: in evaluation, list of inputs -> list of {name: Instances}.
        order: the new number of each class.
    """

    def __init__(self, detector: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.detector = detector
        self.order = torch.tensor(order)

    def forward(self, batched_inputs: Sequence[Sample]) -> list[dict[str, Instances]]:
        """Return the detector's results with the new classes."""
        results = self.detector(batched_inputs)
        for result in results:
            for instances in result.values():
                instances.pred_classes = self._renumber(instances.pred_classes)
        return results

    def _renumber(self, classes: Tensor) -> Tensor:
        return self.order.to(classes.device)[classes]


def map_classes(
    model: nn.Module, trained: Sequence[str], meta: Any, dataset_name: str, by_position: bool
) -> nn.Module:
    """Return the model with the classes of the data set, mapped by name if they differ.

    Raises:
        ClassMismatch: see class_order().
    """
    order = class_order(trained, class_names_of(meta), dataset_name, by_position)
    if order is None:
        return model
    logger.info(_describe_order(trained, order, dataset_name))
    return MappedClasses(model, order)


def check_test_classes(cfg: BaseConfig, trained: Sequence[str]) -> None:
    """Compare the classes of the training data to those of each test data set, before training.

    A data set that cannot be read is left to the evaluation, which reports the reason.

    Raises:
        ClassMismatch: see class_order().
    """
    if cfg.TEST.EVAL_PERIOD < 0:
        return
    for name in cfg.DATASETS.TEST:
        try:
            meta = build_dataset(cfg, [name], is_train=False).meta
        except DataError as error:
            logger.debug(f"The classes of {name!r} are not compared: {error}")
            continue
        class_order(trained, class_names_of(meta), name, cfg.TEST.CLASSES_BY_POSITION)


def resume_classes(cfg: BaseConfig, before: Sequence[str] | None, dataset: Any) -> None:
    """Number the classes of the training data as the resumed checkpoint does.

    Args:
        before: class names of the checkpoint; None or empty if it has none.
        dataset: the training data; it is changed.

    Raises:
        ClassMismatch: the names differ, or the data set cannot be renumbered.
    """
    before, now = list(before or ()), class_names_of(dataset.meta)
    order = class_order(before, now, "DATASETS.TRAIN", cfg.TEST.CLASSES_BY_POSITION)
    if order is None:
        return
    if not hasattr(dataset, "number_classes"):
        raise _mismatch(before, now, "DATASETS.TRAIN")
    logger.info(_describe_order(before, order, "DATASETS.TRAIN"))
    dataset.number_classes(before)


def warn_of_other_classes(trained: Sequence[str] | None, wanted: Sequence[str]) -> None:
    """Warn if a training starts from weights with other class names, or another order of them."""
    if trained and len(trained) == len(wanted) and list(trained) != list(wanted):
        logger.warning(
            "MODEL.WEIGHTS was trained with other classes, or another order of them, than "
            "DATASETS.TRAIN has; each class starts from the weights of the class at its position:\n"
            + _table(trained, wanted, "DATASETS.TRAIN")
        )


# -- messages --------------------------------------------------------------------------------------


def _describe_order(names: Sequence[str], order: Sequence[int], dataset_name: str) -> str:
    moved = [f"{n} {i} -> {j}" for i, (n, j) in enumerate(zip(names, order, strict=True)) if i != j]
    more = f", and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    return (
        f"{dataset_name} numbers the classes of the model differently; they are mapped by name: "
        f"{', '.join(moved[:_SHOWN])}{more}."
    )


def _mismatch(trained: Sequence[str], wanted: Sequence[str], dataset_name: str) -> ClassMismatch:
    return ClassMismatch(
        f"The model was trained with other class names than {dataset_name} has:\n"
        f"{_table(trained, wanted, dataset_name)}\n{_advice(trained, wanted)} To match the classes "
        "by their position instead, set TEST.CLASSES_BY_POSITION True."
    )


def _table(trained: Sequence[str], wanted: Sequence[str], dataset_name: str) -> str:
    rows = [
        (i, a, b, "" if a == b else "differs")
        for i, (a, b) in enumerate(zip(trained, wanted, strict=True))
    ]
    headers = ["class", "model", dataset_name, ""]
    table = tabulate(rows[:_SHOWN], headers=headers, disable_numparse=True)
    return table + (f"\n... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


def _advice(trained: Sequence[str], wanted: Sequence[str]) -> str:
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if set(trained) == set(wanted) and twice:
        return f"{', '.join(map(repr, twice))} names several classes: give each a name of its own."
    plain = [sorted(" ".join(n.casefold().split()) for n in names) for names in (trained, wanted)]
    if plain[0] == plain[1]:
        return "They differ in case or spaces only: write them alike in the annotation file."
    return "Evaluate on data with the classes of the model, or rename them in the annotation file."
