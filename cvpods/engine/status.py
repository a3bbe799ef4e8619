"""What the processes tell each other after every step: signals to stop, images that are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loguru import logger

from cvpods.engine.failures import told_to_peers
from cvpods.engine.hooks import HookBase
from cvpods.engine.nonfinite import NonFinitePolicy
from cvpods.utils import comm
from cvpods.utils.errors import DataError
from cvpods.utils.stop import raise_failed, raise_stopped, stop_signal


class TooManyCorruptImages(DataError):
    """More training images cannot be used than DATALOADER.MAX_CORRUPT_SHARE allows."""


class CorruptImages:
    """Counts the images that were replaced because they cannot be used, each file once.

    Args:
        images: size of the training set.
        max_share: more than this share of it (and more than one file) ends the run.
    """

    def __init__(self, images: int, max_share: float) -> None:
        self.images, self.max_share = images, max_share
        self.files: dict[str, str] = {}
        self._new: dict[str, str] = {}

    def note(self, batches: Sequence[Sequence[Any]]) -> None:
        """Take from the samples of a step what SeededDataset left in them."""
        for batch in batches:
            for sample in batch:
                if isinstance(sample, dict):
                    self._new.update(sample.pop("unusable", {}))

    def take_new(self) -> dict[str, str]:
        """{file: reason} of this process since the last call."""
        new, self._new = self._new, {}
        return new

    def add(self, found: Sequence[dict[str, str]]) -> None:
        """Add what the ranks found; every rank gets the same and comes to the same end.

        Raises:
            TooManyCorruptImages: as the config says.
        """
        for file, reason in (item for part in found for item in part.items()):
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
    """After every step: one exchange between the processes, so that all of them end together.

    Args:
        corrupt: counter of the damaged images.
        nonfinite: counter of the steps that were left out.
    """

    comes_last = 2  # after the writers

    def __init__(self, corrupt: CorruptImages, nonfinite: NonFinitePolicy | None = None) -> None:
        self.corrupt = corrupt
        self.nonfinite = nonfinite

    def after_resume(self) -> None:
        self.after_step()  # an evaluation may have been made up

    def after_step(self) -> None:
        """Exchange failures, damaged images and signals.

        Raises:
            PeerFailed, TooManyCorruptImages, TooManySkippedSteps, Stopped: on every rank at once,
                except where a hook of this rank has failed: the runner raises that error.
        """
        runner = self.trainer
        own = told_to_peers(runner.failure), runner.cannot_save
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
