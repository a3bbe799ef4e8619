"""Exchange between the processes after every step: signals, failures, corrupt images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loguru import logger

from cvpods.engine.failures import message_to_peers
from cvpods.engine.hooks import HookBase
from cvpods.engine.nonfinite import NonFinitePolicy
from cvpods.utils import comm
from cvpods.utils.errors import DataError
from cvpods.utils.stop import raise_failed, raise_stopped, stop_signal


class TooManyCorruptImages(DataError):
    """The share of unusable training images exceeds DATALOADER.MAX_CORRUPT_SHARE."""


class CorruptImages:
    """Counter of the images that were replaced because they cannot be used; each file counts once.

    Args:
        images: size of the training set.
        max_share: the run ends if more than this share of it, and more than one file, is unusable.

    Attributes:
        files: the reason for each file, over all processes.
    """

    def __init__(self, images: int, max_share: float) -> None:
        self.images, self.max_share = images, max_share
        self.files: dict[str, str] = {}
        self._new: dict[str, str] = {}

    def note(self, batches: Sequence[Sequence[object]]) -> None:
        """Take the reasons that SeededDataset left in the samples of a step."""
        for batch in batches:
            for sample in batch:
                if isinstance(sample, dict):  # a loader of the user's own may hold other samples
                    self._new.update(sample.pop("unusable", {}))

    def take_new(self) -> dict[str, str]:
        """Return {file: reason} of this process since the last call."""
        new, self._new = self._new, {}
        return new

    def add(self, reasons: Sequence[Mapping[str, str]]) -> None:
        """Add the {file: reason} of all ranks; every rank adds the same and ends in the same way.

        Raises:
            TooManyCorruptImages: more files than `max_share` allows.
        """
        for file, reason in (item for part in reasons for item in part.items()):
            if file not in self.files:
                self.files[file] = reason
                logger.warning(
                    f"{reason} Another image takes its place ({len(self.files)} of "
                    f"{self.images:,} images so far)."
                )
        count = len(self.files)
        if count > max(1, self.max_share * self.images):
            raise TooManyCorruptImages(
                f"{count} of {self.images:,} training images cannot be used, more than "
                f"DATALOADER.MAX_CORRUPT_SHARE {self.max_share:g} allows: "
                f"{', '.join(sorted(self.files)[:5])}, ... pods_check lists them all; "
                "pods_check --fix FILE writes annotations without them."
            )


class StatusExchange(HookBase):
    """One exchange between the processes after every step, so that all of them end together.

    Args:
        corrupt: counter of the corrupt images.
        nonfinite: counter of the skipped steps.
    """

    comes_last = 2  # after the writers

    def __init__(self, corrupt: CorruptImages, nonfinite: NonFinitePolicy | None = None) -> None:
        self.corrupt = corrupt
        self.nonfinite = nonfinite

    def after_resume(self) -> None:
        """Exchange statuses: an evaluation of the earlier run may have been made up."""
        self.after_step()

    def after_step(self) -> None:
        """Exchange failures, corrupt images and signals.

        Raises:
            PeerFailed, TooManyCorruptImages, TooManySkippedSteps, Stopped: on every rank at once,
                except where a hook of this rank has failed: the runner raises that error.
        """
        runner = self.trainer
        own = message_to_peers(runner.failure), runner.cannot_save
        statuses = comm.all_gather((stop_signal(), self.corrupt.take_new(), *own))
        signals, images, failures, unsaved = zip(*statuses, strict=True)
        runner.agreed = True
        runner.cannot_save = any(unsaved)
        if runner.failure is not None:
            return
        raise_failed(failures)
        self.corrupt.add(images)
        if self.nonfinite is not None:
            self.nonfinite.check_share(self.is_last)
        raise_stopped(signals)
