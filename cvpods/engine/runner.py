"""DefaultRunner: the parts of an experiment, and their training, resumption and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from loguru import logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from cvpods.checkpoint import Checkpointer, DefaultCheckpointer
from cvpods.checkpoint.atomic import remove_leftovers
from cvpods.checkpoint.newest import read_iteration
from cvpods.checkpoint.origin import Origin, set_origin
from cvpods.configs.validation import check_training
from cvpods.data.build import build_test_loader, build_train_loader, largest_training_image
from cvpods.data.white_level import settle_white_level
from cvpods.engine import hooks
from cvpods.engine.class_names import (
    check_test_classes,
    class_names_of,
    resume_classes,
    warn_of_other_classes,
)
from cvpods.engine.defaults import check_num_classes
from cvpods.engine.ending import save_before_end
from cvpods.engine.model import distribute, maybe_convert_module, prepare_model
from cvpods.engine.nonfinite import NonFinitePolicy
from cvpods.engine.progress import progress_of, restore_progress
from cvpods.engine.run_files import set_weights_aside
from cvpods.engine.scaling import plan_batches, resolve_epochs
from cvpods.engine.status import CorruptImages, StatusExchange
from cvpods.engine.step import TrainingStep
from cvpods.engine.testing import evaluate_data_sets, evaluate_nms_recall, inference_folder
from cvpods.engine.writers import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from cvpods.evaluation import EVALUATOR, DatasetEvaluator, verify_results
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation
from cvpods.solver import OptimizerState, build_lr_scheduler, build_optimizer
from cvpods.utils import comm
from cvpods.utils.env import seed_all_rng
from cvpods.utils.errors import ConfigError
from cvpods.utils.events import EventStorage
from cvpods.utils.registry import Registry
from cvpods.utils.stop import ENDS, EndNow, remembering_stop_signals

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig
    from cvpods.data.samplers import TrainingBatchSampler
    from cvpods.data.seeded_dataset import SeededDataset
    from cvpods.structures.samples import Sample

RUNNERS = Registry("runners")

__all__ = [
    "RUNNERS",
    "DefaultCheckpointer",
    "DefaultRunner",
    "DistributedDataParallel",
    "comm",
    "maybe_convert_module",
]


class TrainingLoader(Protocol):
    """The DataLoader of a training, whose items are the samples of one forward pass."""

    dataset: SeededDataset
    batch_sampler: TrainingBatchSampler

    def __iter__(self) -> Iterator[list[Sample]]: ...


@RUNNERS.register()
class DefaultRunner(TrainingStep):
    """Runner with the data, model, optimiser, schedule, checkpointer and hooks of a config.

    Args:
        cfg: the config; periods given in epochs become iterations in it.
        build_model: cfg -> model.

    Methods to override: build_train_loader, build_test_loader, build_optimizer,
    build_lr_scheduler, build_evaluator, build_writers, build_hooks, run_step, test.

    Attributes:
        bare_model: the model without DistributedDataParallel around it.
        ema: the average of its weights; None if TRAINER.EMA is off.
        block: images of one group that follow each other in the order, see TrainingStream.
        results: results of the last evaluation.
        saved_iterations: number of iterations in the newest checkpoint of this run.
    """

    data_loader: TrainingLoader
    results: Mapping[str, Any]

    def __init__(self, cfg: BaseConfig, build_model: Callable[[BaseConfig], nn.Module]) -> None:
        super().__init__()
        check_training(cfg)
        self.cfg = cfg
        self.plan = plan_batches(cfg, comm.get_world_size())
        self.block: int = cfg.SOLVER.IMS_PER_DEVICE
        self.data_loader = self.build_train_loader(cfg, self.plan)
        resolve_epochs(cfg, len(self.data_loader.dataset))
        check_training(cfg)  # again, because the schedule is in iterations now
        self.max_iter = cfg.SOLVER.LR_SCHEDULER.MAX_ITER
        self.window_size = cfg.TRAINER.WINDOW_SIZE
        self.bare_model = self._build_model(build_model)
        self._build_optimisation()
        self._build_counters()
        self._final_is_new = False
        self.saved_iterations: int | None = None
        self.storage = EventStorage(window_size=self.window_size)  # train() makes a new one
        seed_all_rng(cfg.SEED + comm.get_rank())  # dropout and the like differ between ranks
        self.register_hooks(self.build_hooks())

    def _build_model(self, build_model: Callable[[BaseConfig], nn.Module]) -> nn.Module:
        """Build the model, and check that it fits the data."""
        cfg = self.cfg
        model = prepare_model(cfg, build_model)
        check_size = getattr(model, "check_training_size", None)
        if (size := largest_training_image(cfg)) and check_size is not None:
            check_size(*size)
        meta = self.training_data.meta
        check_num_classes(model, meta, cfg.DATASETS.TRAIN)
        self.class_names = class_names_of(meta)
        check_test_classes(cfg, self.class_names)
        return model

    def _build_optimisation(self) -> None:
        """Build the optimiser, its schedule, the scaler, the average and their checkpointer."""
        cfg, model = self.cfg, self.bare_model
        self.optimizer = self.build_optimizer(cfg, model)
        state = OptimizerState(self.optimizer)
        self.model = distribute(model, cfg.TRAINER.FIND_UNUSED_PARAMETERS)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        amp, ema = cfg.TRAINER.AMP, cfg.TRAINER.EMA
        fp16 = bool(amp.ENABLED) and amp.DTYPE == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.ema = hooks.ModelEMA(model, ema.DECAY) if ema.ENABLED else None
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            optimizer=state,
            scheduler=self.scheduler,
            scaler=self.scaler if self.scaler.is_enabled() else None,
            ema=self.ema,
        )

    def _build_counters(self) -> None:
        """Build the counters of skipped steps and of corrupt images."""
        cfg, policy = self.cfg, self.cfg.TRAINER.NONFINITE
        self.nonfinite = NonFinitePolicy(
            policy.POLICY,
            policy.MAX_SKIPPED,
            cfg.OUTPUT_DIR,
            policy.get("MAX_SKIPPED_SHARE", 1.0),  # not in configs of the old style
        )
        share = cfg.DATALOADER.MAX_CORRUPT_SHARE
        self.corrupt = CorruptImages(len(self.data_loader.dataset), share)

    @property
    def training_data(self) -> Any:
        """The data set of DATASETS.TRAIN, without SeededDataset around it."""
        return self.data_loader.dataset.dataset

    # -- parts that subclasses replace ---------------------------------------------------------

    @classmethod
    def build_train_loader(cls, cfg: BaseConfig, *args: Any, **kwargs: Any) -> TrainingLoader:
        return cast(TrainingLoader, build_train_loader(cfg, *args, **kwargs))

    @classmethod
    def build_test_loader(cls, cfg: BaseConfig, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_optimizer(cls, cfg: BaseConfig, model: nn.Module) -> Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: BaseConfig, optimizer: Optimizer) -> LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(
        cls, cfg: BaseConfig, dataset_name: str, dataset: Any, output_folder: str | Path
    ) -> DatasetEvaluator:
        """Return the evaluator of the type that the data set names."""
        return EVALUATOR.get(dataset.meta.evaluator_type)(
            dataset_name,
            dataset.meta,
            cfg,
            output_dir=output_folder,
            ground_truth=dataset.datasets[0].coco_ground_truth(),
        )

    def build_writers(self) -> Sequence[object]:
        output = Path(self.cfg.OUTPUT_DIR)
        return [
            CommonMetricPrinter(self.max_iter, self.window_size),
            JSONWriter(output / "metrics.json", self.window_size),
            TensorboardXWriter(output),
        ]

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """Return the hooks; writers come after the hooks whose scalars they write."""
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
        """Register the hooks that every run needs, if build_hooks() leaves them out."""
        kept = (value for hook in self._hooks for value in vars(hook).values())
        if not any(value is self.scheduler for value in kept):
            self.register_hooks([hooks.LRScheduler(self.optimizer, self.scheduler)])
        if not any(isinstance(hook, hooks.ModelEMA) for hook in self._hooks):
            self.register_hooks([self.ema])
        if not any(isinstance(hook, StatusExchange) for hook in self._hooks):
            self.register_hooks([StatusExchange(self.corrupt, self.nonfinite)])

    # -- resuming and saving -------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the newest whole checkpoint; without one, load MODEL.WEIGHTS.

        Args:
            resume: False loads MODEL.WEIGHTS in any case.
        """
        if comm.is_main_process():
            remove_leftovers(Path(self.cfg.OUTPUT_DIR))
        content = self.checkpointer.resume() if resume else None
        if content is not None:
            restore_progress(self, content)
            return
        if resume:
            logger.info(f"{self.cfg.OUTPUT_DIR} has no checkpoint to resume: a new run starts.")
        content = self.checkpointer.load(self.cfg.MODEL.WEIGHTS, config=self.cfg)
        warn_of_other_classes(content.get("thing_classes"), self.class_names)
        settle_white_level(self.cfg, self.training_data)
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
        self.saved_iterations = self.done

    # -- training ------------------------------------------------------------------------------

    def train(self) -> Mapping[str, Any]:  # type: ignore[override]  # the config has the bounds
        """Train from start_iter to MAX_ITER; return the results of the last evaluation (rank 0).

        A stop signal ends the training after the current iteration. Whatever ends it, the finished
        iterations are saved first, see save_before_end().

        Raises:
            ConfigError: TEST.EXPECTED_RESULTS are missed.
            Stopped: by a signal.
        """
        self.results = {}
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
            except ENDS as cause:
                save_before_end(self, cause)
                raise
        return self.results

    def _start_loader(self, start_iter: int) -> None:
        self.data_loader.batch_sampler.start_iter = start_iter
        self._batches = iter(self.data_loader)

    def _rebuild_loader(self, start_iter: int) -> None:
        offset = self.data_loader.batch_sampler.offset
        self.data_loader = self.build_train_loader(self.cfg, self.plan, block=self.block)
        resume_classes(self.cfg, self.class_names, self.training_data)
        self.data_loader.batch_sampler.offset = offset
        self._start_loader(start_iter)

    # -- evaluation ----------------------------------------------------------------------------

    def evaluate(self) -> Mapping[str, Any]:
        """Evaluate the current weights, or their average if TRAINER.EMA is on.

        Raises:
            ConfigError: it is the last evaluation, and TEST.EXPECTED_RESULTS are missed.
        """
        model = self.ema.module if self.ema is not None else self.bare_model
        set_origin(model, self._origin())
        self.results = self.test(self.cfg, model)
        if comm.is_main_process() and self.cfg.TEST.EXPECTED_RESULTS:
            last = self.iter + 1 >= self.max_iter
            if last and not verify_results(self.cfg.TEST.EXPECTED_RESULTS, self.results):
                raise ConfigError("TEST.EXPECTED_RESULTS are missed; see the lines above.")
        return self.results

    def _origin(self) -> Origin:
        """Return the origin of the current weights: their checkpoint, if they have been saved."""
        is_saved = self.saved_iterations == self.iter + 1
        saved = self.checkpointer.get_checkpoint_file() if is_saved else None
        if saved is None or not comm.is_main_process():
            return Origin(iteration=self.iter + 1, class_names=tuple(self.class_names))
        return Origin.of_file(saved, {"iteration": self.iter}, self.class_names)

    def _lacks_final(self) -> bool:
        """Return whether model_final is missing, or holds other iterations than this run."""
        path = Path(self.cfg.OUTPUT_DIR) / "model_final.pth"
        self._final_is_new = comm.all_gather(read_iteration(path) != self.iter)[0]
        return self._final_is_new

    def _lacks_evaluation(self) -> bool:
        """Return whether the newest results are older than the checkpoint that was resumed."""
        results = inference_folder(self.cfg) / "results.json"
        saved = self.checkpointer.resumed
        lacks = saved is not None and (
            not results.is_file() or results.stat().st_mtime < saved.stat().st_mtime
        )
        return self._final_is_new or comm.all_gather(lacks)[0]

    @classmethod
    def test(
        cls, cfg: BaseConfig, model: nn.Module, output_folder: str | Path | None = None
    ) -> dict[str, Any]:
        """Evaluate `model` on each data set of cfg.DATASETS.TEST, augmented as in TEST.AUG.

        Args:
            output_folder: default OUTPUT_DIR/inference, or inference_TTA with augmentation.

        Returns:
            On rank 0 {task: {metric: value}} for one data set, {name: {task: ...}} for several;
            {} elsewhere.
        """
        if cfg.TEST.AUG.ENABLED:
            detector: Any = model  # from_config() refuses other models than a DenseDetector
            model = TestTimeAugmentation.from_config(cfg, detector)
        folder = Path(output_folder or inference_folder(cfg))
        return evaluate_data_sets(cfg, model, folder, cls.build_test_loader, cls.build_evaluator)

    @classmethod
    def test_nms_recall(
        cls, cfg: BaseConfig, model: nn.Module, output_folder: str | Path | None = None
    ) -> dict[str, Any]:
        """Compute the NMS recall on each data set; arguments and results are those of test()."""
        folder = Path(output_folder or inference_folder(cfg))
        return evaluate_nms_recall(cfg, model, folder, cls.build_test_loader)
