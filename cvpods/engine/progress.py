"""How far a run is: what a checkpoint holds of it beside weights, and how it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger

from cvpods.checkpoint.expectations import check_expectations
from cvpods.data.white_level import expected_white_level
from cvpods.engine.changes import apply_changes, config_of
from cvpods.utils import comm
from cvpods.utils.env import get_rng_state, set_rng_state
from cvpods.utils.errors import CheckpointError


def progress_of(runner: Any) -> dict[str, Any]:
    """Return the entries of a checkpoint after runner.done iterations; every rank must call it.

    They load with `weights_only`.
    """
    meta = runner.data_loader.dataset.dataset.meta
    sampler = runner.data_loader.batch_sampler
    return {
        "iteration": runner.done - 1,
        "seed": runner.cfg.SEED,
        "random_states": comm.gather(get_rng_state()),
        "thing_classes": list(getattr(meta, "thing_classes", [])),
        # Where the order of images goes on, and what it is made of: see TrainingStream.
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


def restore_progress(runner: Any, content: Mapping[str, Any]) -> None:
    """Set the runner to go on after the iteration of a checkpoint's content.

    Order and augmentation of the images go on as they would have, for any number of processes; the
    log says what changes.

    Raises:
        CheckpointError: the content is weights alone.
    """
    if not isinstance(content.get("iteration"), int):
        raise CheckpointError("last_checkpoint names weights without an iteration to resume.")
    runner.start_iter = content["iteration"] + 1
    cfg = runner.cfg
    check_expectations(cfg, content.get("expects", {}), "The checkpoint")
    seed, block = content.get("seed", cfg.SEED), content.get("block", runner.block)
    if seed != cfg.SEED:
        logger.info(f"SEED {seed} of the checkpoint replaces {cfg.SEED}.")
    if (seed, block) != (cfg.SEED, runner.block):
        cfg.SEED, runner.block = seed, block
        runner.data_loader = runner.build_train_loader(cfg, runner.plan, block=block)
    sampler = runner.data_loader.batch_sampler
    expected = sampler.position(runner.start_iter)
    sampler.offset += content.get("position", expected) - expected
    runner.corrupt.files.update(content.get("corrupt_images", {}))
    older = {"in_a_row": content.get("skipped_in_a_row", 0), "steps": runner.start_iter}
    runner.nonfinite.load_state_dict(content.get("nonfinite", older))
    runner.windows = dict(content.get("scalars", {}))
    runner.hints = content.get("scalar_hints", {})
    states = content.get("random_states", [])
    if comm.get_rank() < len(states):
        set_rng_state(states[comm.get_rank()])
    apply_changes(runner, content)
    _describe_changes(runner, content)
    logger.info(f"Going on at iteration {runner.start_iter} of {runner.max_iter}.")


def _describe_changes(runner: Any, content: Mapping[str, Any]) -> None:
    """Say what differs from the run that wrote the checkpoint."""
    before, now = content.get("plan", ""), runner.plan.describe()
    if before in ("", now):
        return
    logger.warning(
        f"The checkpoint's run had {before} This one has {now} Order and augmentation of the "
        "images go on as they would have. Sums over the images of a step, batch norms, and losses "
        "that are divided by a number of the pass differ a little, and so results do not agree "
        "to the last bit."
    )
    total = content.get("images_per_step")
    if "config" not in content and total not in (None, runner.plan.total):
        logger.warning(
            f"SOLVER.IMS_PER_BATCH was {total} and is {runner.plan.total}: iterations count on, so "
            "the schedule now covers another number of images."
        )
