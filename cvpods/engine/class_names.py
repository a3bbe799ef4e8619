"""Compare the class names that weights were trained with to those of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from loguru import logger
from tabulate import tabulate
from torch import Tensor, nn

from cvpods.data import build_dataset
from cvpods.utils.errors import ConfigError, DataError

# Rows of the table of an error, and pairs of a log line.
_SHOWN = 100


class ClassMismatch(ConfigError):
    """The weights' classes are not those of the data set."""


def class_order(
    trained: Sequence[str], wanted: Sequence[str], what: str, by_position: bool = False
) -> list[int] | None:
    """Return, for each class of the model, the number of the data set's class of the same name.

    Args:
        trained: names that the weights were trained with; empty where they do not say.
        wanted: names of the data set.
        what: the data set, for messages.
        by_position: accept other names or another order: class i stays class i.

    Returns:
        One number for each class; None where the classes need no mapping.

    Raises:
        ClassMismatch: the names differ; the message shows both lists side by side.
    """
    trained, wanted = list(trained), list(wanted)
    if by_position or len(trained) != len(wanted) or trained == wanted:
        return None  # check_num_classes() compares the numbers
    if set(trained) != set(wanted) or len(set(wanted)) != len(wanted):
        raise ClassMismatch(_mismatch(trained, wanted, what))
    return [wanted.index(name) for name in trained]


def describe_order(names: Sequence[str], order: Sequence[int], what: str) -> str:
    """Return the log line about classes that are mapped by name."""
    moved = [f"{n} {i} -> {j}" for i, (n, j) in enumerate(zip(names, order, strict=True)) if i != j]
    more = f", and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    return (
        f"{what} numbers the classes of the model differently; they are mapped by name: "
        f"{', '.join(moved[:_SHOWN])}{more}."
    )


def _mismatch(trained: list[str], wanted: list[str], what: str) -> str:
    return (
        f"The model was trained with other class names than {what} has:\n"
        f"{_table(trained, wanted, what)}\n{_advice(trained, wanted)} To take the classes by their "
        "position instead, set TEST.CLASSES_BY_POSITION True."
    )


def _table(trained: list[str], wanted: list[str], what: str) -> str:
    rows = [
        (i, a, b, "" if a == b else "differs")
        for i, (a, b) in enumerate(zip(trained, wanted, strict=True))
    ]
    table = tabulate(rows[:_SHOWN], headers=["class", "model", what, ""], disable_numparse=True)
    return table + (f"\n... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


def _advice(trained: list[str], wanted: list[str]) -> str:
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if set(trained) == set(wanted) and twice:
        return f"{', '.join(map(repr, twice))} names several classes: give each a name of its own."
    plain = [sorted(" ".join(n.casefold().split()) for n in names) for names in (trained, wanted)]
    if plain[0] == plain[1]:
        return "They differ in case or spaces only: write them alike in the annotation file."
    return "Evaluate on data with the classes of the model, or rename them in the annotation file."


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

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the detector's results with the new classes."""
        results = self.detector(batched_inputs)
        for result in results:
            for found in result.values():
                found.pred_classes = self._renumber(found.pred_classes)
        return results

    def _renumber(self, classes: Tensor) -> Tensor:
        return self.order.to(classes.device)[classes]


def map_classes(
    model: nn.Module, trained: Sequence[str], meta: Any, what: str, by_position: bool
) -> nn.Module:
    """Return the model, with the classes of the data set: mapped by name where they differ.

    Raises:
        ClassMismatch: see class_order().
    """
    wanted = names_of(meta)
    order = class_order(trained, wanted, what, by_position)
    if order is None:
        return model
    logger.info(describe_order(trained, order, what))
    return MappedClasses(model, order)


def check_test_classes(cfg: Any, trained: Sequence[str]) -> None:
    """Compare the classes of the training data to those of each test data set, before training.

    A data set that cannot be read is left to the evaluation, which says why.

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
        class_order(trained, names_of(meta), name, cfg.TEST.CLASSES_BY_POSITION)


def resume_classes(cfg: Any, before: Any, dataset: Any) -> None:
    """Number the classes of the training data as the checkpoint does that is resumed.

    Args:
        before: class names of the checkpoint; None or empty if it does not say.
        dataset: of training; changed.

    Raises:
        ClassMismatch: other names, or a data set that cannot be renumbered; shows both lists.
    """
    now = names_of(dataset.meta)
    order = class_order(before or (), now, "DATASETS.TRAIN", cfg.TEST.CLASSES_BY_POSITION)
    if order is None:
        return
    if not hasattr(dataset, "number_classes"):
        raise ClassMismatch(_mismatch(list(before), now, "DATASETS.TRAIN"))
    logger.info(describe_order(before, order, "DATASETS.TRAIN"))
    dataset.number_classes(before)


def warn_of_other_classes(weights: Any, wanted: Sequence[str]) -> None:
    """Say that a training starts from weights whose classes have other names or another order."""
    if weights and len(weights) == len(wanted) and list(weights) != list(wanted):
        logger.warning(
            "MODEL.WEIGHTS was trained with other classes, or another order of them, than "
            "DATASETS.TRAIN has; each class starts from the weights of the class at its position:\n"
            + _table(list(weights), list(wanted), "DATASETS.TRAIN")
        )


def names_of(meta: Any) -> list[str]:
    """Return the class names of a data set's meta; [] where it has none."""
    values = meta if isinstance(meta, Mapping) else vars(meta)
    return list(values.get("thing_classes") or [])
