"""The progress of a run: the entries of a checkpoint beside the weights, and their restoration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loguru import logger

from cvpods.checkpoint.expectations import check_expectations
from cvpods.data.white_level import expected_white_level, settle_white_level
from cvpods.engine.changes import apply_changes, config_of
from cvpods.engine.class_names import class_names_of, resume_classes
from cvpods.utils import comm
from cvpods.utils.env import get_rng_state, set_rng_state
from cvpods.utils.errors import CheckpointError

if TYPE_CHECKING:
    from cvpods.engine.runner import DefaultRunner


def progress_of(runner: DefaultRunner) -> dict[str, Any]:
    """Return the entries of a checkpoint after runner.done iterations; every rank must call it.

    They load with `weights_only`.

    Raises:
        RuntimeError: the state changes just now, see RunnerBase.done.
    """
    if runner.done is None:
        raise RuntimeError(
            "A run cannot be saved while its state changes: save it in a hook without part_of_step."
        )
    sampler = runner.data_loader.batch_sampler
    return {
        "iteration": runner.done - 1,
        "seed": runner.cfg.SEED,
        "random_states": comm.gather(get_rng_state()),
        "thing_classes": list(getattr(runner.training_data.meta, "thing_classes", [])),
        # Where the order of images continues, and what determines it: see TrainingStream.
        "position": sampler.position(runner.done),
        "block": runner.block,
        "plan": runner.plan.describe(),
        "images_per_step": runner.plan.total,
        "images": len(runner.data_loader.dataset),
        "config": config_of(runner.cfg),
        "expects": expected_white_level(runner.cfg),
        "scalars": runner.storage.windows(runner.done),
        "scalar_hints": runner.storage.hints(),
        "corrupt_images": dict(runner.corrupt.files),
        "nonfinite": runner.nonfinite.state_dict(),
    }


def restore_progress(runner: DefaultRunner, content: Mapping[str, Any]) -> None:
    """Set the runner to continue after the iteration of a checkpoint's content.

    The checkpointer has loaded the weights, the optimiser, the schedule and the average already.
    The order and the augmentation of the images continue as if nothing had happened, for any number
    of processes. The log names what changes.

    Raises:
        CheckpointError: the content holds weights alone.
    """
    if runner.ema is not None and "ema" not in content:
        runner.ema.load_state_dict(runner.bare_model.state_dict())
    if not isinstance(content.get("iteration"), int):
        raise CheckpointError("last_checkpoint names weights without an iteration to resume.")
    runner.start_iter = content["iteration"] + 1
    check_expectations(runner.cfg, content.get("expects", {}), "The checkpoint")
    _restore_order(runner, content)
    runner.corrupt.files.update(content.get("corrupt_images", {}))
    older = {"in_a_row": content.get("skipped_in_a_row", 0), "steps": runner.start_iter}
    runner.nonfinite.load_state_dict(content.get("nonfinite", older))
    runner.windows = dict(content.get("scalars", {}))
    runner.hints = content.get("scalar_hints", {})
    states = content.get("random_states", [])
    if comm.get_rank() < len(states):
        set_rng_state(states[comm.get_rank()])
    apply_changes(runner, content)
    _log_other_plan(runner, content)
    logger.info(f"Continuing at iteration {runner.start_iter} of {runner.max_iter}.")
    resume_classes(runner.cfg, content.get("thing_classes"), runner.training_data)
    runner.class_names = class_names_of(runner.training_data.meta)
    settle_white_level(runner.cfg, runner.training_data)
    runner.saved_iterations = runner.start_iter


def _restore_order(runner: DefaultRunner, content: Mapping[str, Any]) -> None:
    """Continue the order of images at its position in the checkpoint, with the same seed."""
    cfg = runner.cfg
    seed, block = content.get("seed", cfg.SEED), content.get("block", runner.block)
    if seed != cfg.SEED:
        logger.info(f"SEED {seed} of the checkpoint replaces {cfg.SEED}.")
    if (seed, block) != (cfg.SEED, runner.block):
        cfg.SEED, runner.block = seed, block
        runner.data_loader = runner.build_train_loader(cfg, runner.plan, block=block)
    sampler = runner.data_loader.batch_sampler
    expected = sampler.position(runner.start_iter)
    sampler.offset += content.get("position", expected) - expected


def _log_other_plan(runner: DefaultRunner, content: Mapping[str, Any]) -> None:
    """Log how the division of a step differs from that of the checkpoint's run."""
    before, now = content.get("plan", ""), runner.plan.describe()
    if before in ("", now):
        return
    logger.warning(
        f"The checkpoint's run had {before} This one has {now} The order and the augmentation of "
        "the images continue unchanged. Sums over the images of a step, batch norms, and losses "
        "that are divided by a number of the pass differ a little, so results do not agree to the "
        "last bit."
    )
    total = content.get("images_per_step")
    if "config" not in content and total not in (None, runner.plan.total):
        logger.warning(
            f"SOLVER.IMS_PER_BATCH was {total} and is {runner.plan.total}: the count of iterations "
            "continues, so the schedule now covers another number of images."
        )
