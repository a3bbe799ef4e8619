"""Matching of a file's tensors to a model's tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from cvpods.checkpoint.torchvision_names import rename_torchvision
from cvpods.utils.errors import CheckpointError


@dataclass
class LoadReport:
    """Result of matching: names of tensors, with both shapes where a file and a model differ."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    prefix: str = ""

    def describe(self) -> str:
        """Return lines that list the tensors that do not fit; "" if all fit."""
        parts = {
            "in the model but not in the file": self.missing,
            "of another shape": self.mismatched,
            "in the file but not in the model": self.unused,
        }
        return "\n".join(f"  {title}: {_shorten(names)}" for title, names in parts.items() if names)


def _shorten(names: list[str], limit: int = 8) -> str:
    more = f" ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def common_prefix(model_keys: list[str], file_keys: list[str]) -> str:
    """Return the prefix p for which most model keys are p + a file key.

    It is "" for a file of the same model. A backbone's file fits a detector with p =
    "backbone.bottom_up.".
    """
    known = set(file_keys)
    votes: Counter[str] = Counter()
    for key in model_keys:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                votes["".join(f"{part}." for part in parts[:cut])] += 1
    return min(votes, key=lambda p: (-votes[p], len(p))) if votes else ""


# Prefixes that wrappers add to all names: DistributedDataParallel, Lightning, torch.compile.
_WRAPPERS = ("module.", "model.", "_orig_mod.")


def strip_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes that wrappers of a model add to all names."""
    weights = dict(weights)
    while prefix := next((w for w in _WRAPPERS if _all_start_with(weights, w)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _all_start_with(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, strict: bool) -> LoadReport:
    """Copy the tensors whose name (after one common prefix) and shape agree into `model`.

    Args:
        weights: the names may all start with a wrapper's prefix such as "module.". The names of a
            torchvision ResNet fit, too.
        strict: every tensor of the model must be in the file, in its shape.

    Raises:
        CheckpointError: no tensor fits; or, with `strict`, not every tensor fits. The message lists
            the keys.
    """
    weights = strip_wrappers({k: v for k, v in weights.items() if isinstance(v, Tensor)})
    own = model.state_dict()
    weights, report = _choose_names(own, weights)
    fitting = {}
    for key, tensor in weights.items():
        name = report.prefix + key
        if name not in own:
            if not key.endswith("num_batches_tracked"):  # frozen norms do not count batches
                report.unused.append(key)
        elif own[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
            report.mismatched.append(f"{name} ({shapes})")
        else:
            fitting[name] = tensor
    report.loaded = list(fitting)
    result = model.load_state_dict(fitting, strict=False)
    skipped = {entry.split(" ")[0] for entry in report.mismatched}
    report.missing = [key for key in result.missing_keys if key not in skipped]
    if not report.loaded:
        raise CheckpointError(f"The file does not belong to this model:\n{report.describe()}")
    if strict and (report.missing or report.mismatched):
        raise CheckpointError(f"The file does not fit this model:\n{report.describe()}")
    return report


def _choose_names(
    own: Mapping[str, Tensor], weights: dict[str, Tensor]
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return weights under their own names or those of torchvision, whichever fit more keys.

    Args:
        own: the model's state dict.

    Returns:
        The weights, and an empty report with the common prefix of their names.
    """
    renamed = rename_torchvision(weights)
    namings = [weights] if renamed.keys() == weights.keys() else [weights, renamed]
    prefixes = [common_prefix(list(own), list(named)) for named in namings]
    fits = [sum(p + key in own for key in n) for n, p in zip(namings, prefixes, strict=True)]
    best = fits.index(max(fits))
    return namings[best], LoadReport(prefix=prefixes[best])
