"""The end of a run before its last iteration: save the finished iterations, and log what is saved.

Errors, signals, sys.exit() and KeyboardInterrupt end a run in this way.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from loguru import logger

from cvpods.engine.failures import describe_error, log_failure
from cvpods.engine.nonfinite import NonFiniteLoss
from cvpods.utils import comm

if TYPE_CHECKING:
    from cvpods.engine.runner import DefaultRunner


def save_before_end(runner: DefaultRunner, cause: BaseException) -> None:
    """Save the state after the last iteration that is complete in memory, and log the outcome.

    With several processes, all of them must come here. That is certain if they have agreed on the
    end, or if the losses, which they share, are the cause. An error of one process alone ends the
    others, and nothing is saved.
    """
    together = runner.agreed or isinstance(cause, NonFiniteLoss) or comm.get_world_size() == 1
    if not together or runner.done == 0:
        return
    ending = textwrap.shorten(describe_error(cause), 200, placeholder=" ...").rstrip(".")
    if runner.done is None:
        logger.warning(
            f"{ending}. This came while the weights, the schedule and the average were changing, "
            f"so iteration {runner.iter + 1} is not saved; pods_train --resume continues from the "
            "last checkpoint."
        )
        return
    saves = runner.cfg.SOLVER.CHECKPOINT_PERIOD >= 0
    saved = saves and _ensure_saved(runner)
    state = "saved; pods_train --resume continues from it" if saved else "not saved"
    if not saves:
        state += ", because SOLVER.CHECKPOINT_PERIOD is below 0"
    logger.warning(f"{ending}. {runner.done} of {runner.max_iter} iterations are done and {state}.")
    comm.synchronize()  # no rank leaves, which ends the others, before the file is there


def _ensure_saved(runner: DefaultRunner) -> bool:
    """Save the run unless it is saved or saving has just failed; return whether it is saved."""
    if runner.saved_iterations == runner.done:
        return True
    if runner.cannot_save:
        return False
    try:
        runner.save(f"model_iter_{runner.done:07d}")
    except Exception as error:  # it must not hide the cause of the end
        log_failure("The run cannot be saved", error)
    return not runner.cannot_save
