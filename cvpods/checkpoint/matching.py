"""Which tensor of a file goes to which of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from cvpods.checkpoint.torchvision_names import from_torchvision_names
from cvpods.utils.errors import CheckpointError


@dataclass
class LoadReport:
    """What became of a file's tensors: names, and shapes (file, model) where those differ."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    prefix: str = ""

    def describe(self) -> str:
        """Lines that say what does not fit; '' when everything does."""
        parts = {
            "in the model but not in the file": self.missing,
            "of another shape": self.mismatched,
            "in the file but not in the model": self.unused,
        }
        return "\n".join(f"  {what}: {_shorten(names)}" for what, names in parts.items() if names)


def _shorten(names: list[str], limit: int = 8) -> str:
    more = f" ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def common_prefix(model_keys: list[str], file_keys: list[str]) -> str:
    """The prefix p for which most model keys are p + a file key ("" for a whole model).

    A backbone's file fits a detector with p = "backbone.bottom_up.".
    """
    wanted = set(file_keys)
    votes: Counter[str] = Counter()
    for key in model_keys:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                votes["".join(f"{part}." for part in parts[:cut])] += 1
    return min(votes, key=lambda p: (-votes[p], len(p))) if votes else ""


# What other modules put before all names: DistributedDataParallel, Lightning, torch.compile.
_WRAPPERS = ("module.", "model.", "_orig_mod.")


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without a prefix that wrappers of a model gave to every name."""
    weights = dict(weights)
    while prefix := next((w for w in _WRAPPERS if _all_start(weights, w)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _all_start(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, strict: bool) -> LoadReport:
    """Copy tensors into `model` where name (after one common prefix) and shape agree.

    Args:
        weights: names may all start with "module." or the like; those of a torchvision ResNet
            fit, too.
        strict: everything that the model has must be in the file, in its shape.

    Raises:
        CheckpointError: nothing fits; or, with `strict`, something does not. Lists the keys.
    """
    weights = without_wrappers({k: v for k, v in weights.items() if isinstance(v, Tensor)})
    own = model.state_dict()
    renamed = from_torchvision_names(weights)
    namings = [weights] if renamed.keys() == weights.keys() else [weights, renamed]
    prefixes = [common_prefix(list(own), list(named)) for named in namings]
    fits = [sum(p + key in own for key in n) for n, p in zip(namings, prefixes, strict=True)]
    best = fits.index(max(fits))
    weights, report = namings[best], LoadReport(prefix=prefixes[best])
    fitting = {}
    for key, tensor in weights.items():
        name = report.prefix + key
        if name not in own:
            if not key.endswith("num_batches_tracked"):  # frozen norms do not count
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
