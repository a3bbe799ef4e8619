"""DefaultRunner: everything of an experiment put together, trained, resumed and evaluated."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cvpods.checkpoint import Checkpointer, DefaultCheckpointer
from cvpods.checkpoint.atomic import remove_leftovers
from cvpods.checkpoint.newest import read_iteration
from cvpods.checkpoint.origin import Origin, set_origin
from cvpods.configs.check import check_training
from cvpods.data.build import build_test_loader, build_train_loader, largest_training_image
from cvpods.data.white_level import settle_white_level
from cvpods.engine import hooks
from cvpods.engine.class_names import (
    check_test_classes,
    names_of,
    resume_classes,
    warn_of_other_classes,
)
from cvpods.engine.defaults import check_num_classes
from cvpods.engine.failures import log_failure
from cvpods.engine.failures import reason as describe
from cvpods.engine.model import maybe_convert_module, prepare_model
from cvpods.engine.nonfinite import NonFiniteLoss, NonFinitePolicy
from cvpods.engine.progress import progress_of, restore_progress
from cvpods.engine.run_files import set_weights_aside
from cvpods.engine.scaling import plan_batches, resolve_epochs
from cvpods.engine.status import CorruptImages, StatusExchange
from cvpods.engine.step import TrainingStep
from cvpods.engine.testing import evaluate_data_sets, inference_folder
from cvpods.engine.writers import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from cvpods.evaluation import EVALUATOR, NMSRecallEvaluator, verify_results
from cvpods.modeling.pre_and_post_nms import PreAndPostNMS
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation
from cvpods.solver import OptimizerState, build_lr_scheduler, build_optimizer
from cvpods.utils import comm
from cvpods.utils.env import seed_all_rng
from cvpods.utils.errors import ConfigError
from cvpods.utils.events import EventStorage
from cvpods.utils.registry import Registry
from cvpods.utils.stop import ENDS, EndNow, remembering_stop_signals

RUNNERS = Registry("runners")

__all__ = [
    "RUNNERS",
    "DefaultCheckpointer",
    "DefaultRunner",
    "DistributedDataParallel",
    "comm",
    "maybe_convert_module",
]


@RUNNERS.register()
class DefaultRunner(TrainingStep):
    """Builds data, model, optimiser, schedule, checkpointer and hooks from a config.

    Args:
        cfg: the configuration; periods given in epochs become iterations in it.
        build_model: cfg -> model.

    Methods to override: build_train_loader, build_test_loader, build_optimizer,
    build_lr_scheduler, build_evaluator, build_writers, build_hooks, run_step, test.
    """

    def __init__(self, cfg: Any, build_model: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        check_training(cfg)
        self.cfg = cfg
        self.plan = plan_batches(cfg, comm.get_world_size())
        self.block = cfg.SOLVER.IMS_PER_DEVICE
        self.data_loader = self.build_train_loader(cfg, self.plan)
        resolve_epochs(cfg, len(self.data_loader.dataset))
        check_training(cfg)  # once more: the schedule is in iterations now
        self.max_iter = cfg.SOLVER.LR_SCHEDULER.MAX_ITER
        self.window_size = cfg.TRAINER.WINDOW_SIZE

        model = prepare_model(cfg, build_model)
        if (size := largest_training_image(cfg)) and hasattr(model, "check_training_size"):
            model.check_training_size(*size)
        meta = self.data_loader.dataset.dataset.meta
        check_num_classes(model, meta, cfg.DATASETS.TRAIN)
        self.class_names = names_of(meta)
        check_test_classes(cfg, self.class_names)
        self.bare_model = model
        self.optimizer = self.build_optimizer(cfg, model)
        state = OptimizerState(self.optimizer)
        self.model = self._distribute(model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        amp = cfg.TRAINER.AMP
        fp16 = bool(amp.ENABLED) and amp.DTYPE == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        ema = cfg.TRAINER.EMA
        self.ema = hooks.ModelEMA(model, ema.DECAY) if ema.ENABLED else None
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            optimizer=state,
            scheduler=self.scheduler,
            scaler=self.scaler if self.scaler.is_enabled() else None,
            ema=self.ema,
        )
        policy = cfg.TRAINER.NONFINITE
        self.nonfinite = NonFinitePolicy(
            policy.POLICY,
            policy.MAX_SKIPPED,
            cfg.OUTPUT_DIR,
            policy.get("MAX_SKIPPED_SHARE", 1.0),  # not in configs of the old style
        )
        share = cfg.DATALOADER.MAX_CORRUPT_SHARE
        self.corrupt = CorruptImages(len(self.data_loader.dataset), share)
        self._final_is_new = False
        self._saved: int | None = None  # iterations that the newest checkpoint of this run has
        self.storage = EventStorage(window_size=self.window_size)  # train() makes a new one
        seed_all_rng(cfg.SEED + comm.get_rank())  # dropout and the like differ between ranks
        self.register_hooks(self.build_hooks())

    # -- parts that subclasses replace ---------------------------------------------------------

    @classmethod
    def build_train_loader(cls, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        return build_train_loader(cfg, *args, **kwargs)

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_optimizer(cls, cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: Any, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(
        cls, cfg: Any, dataset_name: str, dataset: Any, output_folder: str | Path
    ) -> Any:
        """The evaluator of the type that the data set names."""
        return EVALUATOR.get(dataset.meta.evaluator_type)(
            dataset_name,
            dataset.meta,
            cfg,
            output_dir=output_folder,
            ground_truth=dataset.datasets[0].coco_ground_truth(),
        )

    def build_writers(self) -> list[Any]:
        output = Path(self.cfg.OUTPUT_DIR)
        return [
            CommonMetricPrinter(self.max_iter, self.window_size),
            JSONWriter(output / "metrics.json", self.window_size),
            TensorboardXWriter(output),
        ]

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """Return the hooks: writers come after what they write."""
        cfg = self.cfg
        main = comm.is_main_process()
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            self.ema,
            hooks.PeriodicCheckpointer(self.save, cfg.SOLVER.CHECKPOINT_PERIOD, self._lacks_final),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate, self._lacks_evaluation)
            if cfg.DATASETS.TEST
            else None,
            hooks.PeriodicWriter(self.build_writers(), cfg.GLOBAL.LOG_INTERVAL) if main else None,
            StatusExchange(self.corrupt, self.nonfinite),
        ]

    def _add_missing_hooks(self) -> None:
        """Register what no run works without, for a build_hooks() that leaves it out."""
        kept = (value for hook in self._hooks for value in vars(hook).values())
        if not any(value is self.scheduler for value in kept):
            self.register_hooks([hooks.LRScheduler(self.optimizer, self.scheduler)])
        if not any(isinstance(hook, hooks.ModelEMA) for hook in self._hooks):
            self.register_hooks([self.ema])
        if not any(isinstance(hook, StatusExchange) for hook in self._hooks):
            self.register_hooks([StatusExchange(self.corrupt, self.nonfinite)])

    # -- training ------------------------------------------------------------------------------

    def _distribute(self, model: nn.Module) -> nn.Module:
        if comm.get_world_size() == 1:
            return model
        ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(
            model,
            device_ids=ids,
            **{buffers: False},
            find_unused_parameters=self.cfg.TRAINER.FIND_UNUSED_PARAMETERS,
        )

    def resume_or_load(self, resume: bool = True) -> None:
        """With `resume`, go on from the newest whole checkpoint where there is one; else load
        MODEL.WEIGHTS.
        """
        if comm.is_main_process():
            remove_leftovers(Path(self.cfg.OUTPUT_DIR))
        content = self.checkpointer.resume() if resume else None
        if content is not None:
            if self.ema is not None and "ema" not in content:
                self.ema.load_state_dict(self.bare_model.state_dict())
            restore_progress(self, content)
            dataset = self.data_loader.dataset.dataset
            resume_classes(self.cfg, content.get("thing_classes"), dataset)
            self.class_names = names_of(dataset.meta)
            settle_white_level(self.cfg, dataset)
            self._saved = self.start_iter
            return
        if resume:
            logger.info(f"{self.cfg.OUTPUT_DIR} has no checkpoint to resume: the run starts.")
        content = self.checkpointer.load(self.cfg.MODEL.WEIGHTS, config=self.cfg)
        warn_of_other_classes(content.get("thing_classes"), self.class_names)
        settle_white_level(self.cfg, self.data_loader.dataset.dataset)
        if self.ema is not None:
            self.ema.load_state_dict(self.bare_model.state_dict())
        if resume:
            comm.synchronize()  # MODEL.WEIGHTS may be one of the files that move
            if comm.is_main_process():
                set_weights_aside(Path(self.cfg.OUTPUT_DIR))

    def save(self, name: str) -> None:
        """Save everything that resuming needs; every rank must call it."""
        self.cannot_save = True
        self.checkpointer.save(name, **progress_of(self))
        self.cannot_save = False
        self._saved = self.done

    def train(self) -> Any:  # type: ignore[override] - the loop's bounds come from the config
        """Train from start_iter to MAX_ITER; returns the last evaluation's results (rank 0).

        A stop signal ends it after the iteration under way. Whatever ends it, what is done is saved
        first, see _save_before_the_end.

        Raises:
            ConfigError: TEST.EXPECTED_RESULTS are missed.
            Stopped: by a signal.
        """
        self.results: Mapping[str, Any] = {}
        self._add_missing_hooks()
        with remembering_stop_signals():
            if self.start_iter >= self.max_iter:
                logger.info(
                    f"{self.start_iter} iterations are done already; "
                    f"SOLVER.LR_SCHEDULER.MAX_ITER is {self.max_iter}: nothing is left to train."
                )
            else:
                self._start_loader(self.start_iter)
            try:
                super().train(self.start_iter, self.max_iter)
            except EndNow:
                raise
            except ENDS as reason:
                self._save_before_the_end(reason)
                raise
        return self.results

    def _start_loader(self, start_iter: int) -> None:
        self.data_loader.batch_sampler.start_iter = start_iter
        self._batches = iter(self.data_loader)

    def _rebuild_loader(self, start_iter: int) -> None:
        offset = self.data_loader.batch_sampler.offset
        self.data_loader = self.build_train_loader(self.cfg, self.plan, block=self.block)
        resume_classes(self.cfg, self.class_names, self.data_loader.dataset.dataset)
        self.data_loader.batch_sampler.offset = offset
        self._start_loader(start_iter)

    def _save_before_the_end(self, reason: BaseException) -> None:
        """Save the state as of the last iteration whose state is whole, and say so.

        Of several processes all must come here, which is known where they have agreed on the end,
        or where losses, which they share, are the reason. An error of one alone ends the others.
        """
        together = self.agreed or isinstance(reason, NonFiniteLoss) or comm.get_world_size() == 1
        if not together or self.done == 0:
            return
        ending = textwrap.shorten(describe(reason), 200, placeholder=" ...").rstrip(".")
        if self.done is None:
            logger.warning(
                f"{ending}. This came while the weights, the schedule and the average were "
                f"changing, so iteration {self.iter + 1} is not saved; pods_train --resume "
                "continues from the last checkpoint."
            )
            return
        wanted = self.cfg.SOLVER.CHECKPOINT_PERIOD >= 0
        saved = wanted and self._is_saved()
        state = "saved; pods_train --resume continues from it" if saved else "not saved"
        if not wanted:
            state += ", as SOLVER.CHECKPOINT_PERIOD < 0 says"
        logger.warning(f"{ending}. {self.done} of {self.max_iter} iterations are done and {state}.")
        comm.synchronize()  # no rank leaves, which ends the others, before the file is there

    def _is_saved(self) -> bool:
        """Save what is not saved yet, unless saving has just failed; return whether it is saved."""
        if self._saved == self.done:
            return True
        if self.cannot_save:
            return False
        try:
            self.save(f"model_iter_{self.done:07d}")
        except Exception as error:  # the reason of the end must not get lost
            log_failure("The run cannot be saved", error)
        return not self.cannot_save

    # -- evaluation ----------------------------------------------------------------------------

    def evaluate(self) -> Mapping[str, Any]:
        """Evaluate the present weights, averaged ones where TRAINER.EMA is on."""
        model = self.ema.module if self.ema is not None else self.bare_model
        set_origin(model, self._origin())
        self.results = self.test(self.cfg, model)
        if comm.is_main_process() and self.cfg.TEST.EXPECTED_RESULTS:
            last = self.iter + 1 >= self.max_iter
            if last and not verify_results(self.cfg.TEST.EXPECTED_RESULTS, self.results):
                raise ConfigError("TEST.EXPECTED_RESULTS are missed; see the lines above.")
        return self.results

    def _lacks_final(self) -> bool:
        """Return whether model_final is missing, or of another iteration than this run."""
        path = Path(self.cfg.OUTPUT_DIR) / "model_final.pth"
        self._final_is_new = comm.all_gather(read_iteration(path) != self.iter)[0]
        return self._final_is_new

    def _origin(self) -> Origin:
        """Where the present weights come from: the checkpoint, where they have been saved."""
        is_saved = self._saved == self.iter + 1
        saved = self.checkpointer.get_checkpoint_file() if is_saved else None
        if saved is None or not comm.is_main_process():
            return Origin(iteration=self.iter + 1, class_names=tuple(self.class_names))
        return Origin.of_file(saved, {"iteration": self.iter}, self.class_names)

    def _lacks_evaluation(self) -> bool:
        """Return whether the newest results are older than the checkpoint that was resumed."""
        results = inference_folder(self.cfg) / "results.json"
        saved = self.checkpointer.resumed
        lacks = saved is not None and (
            not results.is_file() or results.stat().st_mtime < saved.stat().st_mtime
        )
        return self._final_is_new or comm.all_gather(lacks)[0]

    @classmethod
    def test(cls, cfg: Any, model: nn.Module, output_folder: str | Path | None = None) -> Any:
        """Evaluate `model` on each data set of cfg.DATASETS.TEST, augmented as TEST.AUG says.

        Args:
            output_folder: default OUTPUT_DIR/inference, or inference_TTA with augmentation.

        Returns:
            On rank 0 {task: {metric: value}} for one data set, {name: {task: ...}} for several;
            {} elsewhere.
        """
        if cfg.TEST.AUG.ENABLED:
            model = TestTimeAugmentation.from_config(cfg, model)
        folder = Path(output_folder or inference_folder(cfg))
        return evaluate_data_sets(cfg, model, folder, cls.build_test_loader, cls.build_evaluator)

    @classmethod
    def test_nms_recall(
        cls, cfg: Any, model: nn.Module, output_folder: str | Path | None = None
    ) -> Any:
        """NMS recall on each data set of cfg.DATASETS.TEST; arguments and results as of test()."""
        if cfg.TEST.AUG.ENABLED:
            raise ConfigError("NMS recall is of one scale; set TEST.AUG.ENABLED False.")

        def build_evaluator(cfg: Any, name: str, dataset: Any, folder: Path) -> Any:
            return NMSRecallEvaluator(name, dataset.datasets[0].coco_ground_truth(), folder)

        folder = Path(output_folder or inference_folder(cfg))
        return evaluate_data_sets(
            cfg, PreAndPostNMS(model), folder, cls.build_test_loader, build_evaluator, record=False
        )
