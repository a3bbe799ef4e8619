"""DefaultRunner: everything of an experiment put together, trained, resumed and evaluated."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cvpods.checkpoint import Checkpointer, DefaultCheckpointer
from cvpods.data.build import build_test_loader, build_train_loader
from cvpods.engine import hooks
from cvpods.engine.base_runner import RunnerBase
from cvpods.engine.defaults import check_num_classes
from cvpods.engine.scaling import plan_batches, resolve_epochs
from cvpods.engine.writers import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from cvpods.evaluation import (
    EVALUATOR,
    NMSRecallEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
    without_nan,
)
from cvpods.modeling.pre_and_post_nms import PreAndPostNMS
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation
from cvpods.solver import build_lr_scheduler, build_optimizer, clip_gradients
from cvpods.utils import comm
from cvpods.utils.env import get_rng_state, seed_all_rng, set_rng_state
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods.utils.registry import Registry

RUNNERS = Registry("runners")

__all__ = ["RUNNERS", "DefaultCheckpointer", "DefaultRunner", "DistributedDataParallel", "comm"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def maybe_convert_module(model: nn.Module) -> nn.Module:
    """SyncBN works in a process group of more than one process on GPUs only; else make it BN."""
    if comm.get_world_size() > 1 and torch.cuda.is_available():
        return model
    for name, child in model.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
            plain.load_state_dict(child.state_dict())
            setattr(model, name, plain)
        else:
            maybe_convert_module(child)
    return model


@RUNNERS.register()
class DefaultRunner(RunnerBase):
    """Builds data, model, optimiser, schedule, checkpointer and hooks from a config.

    Args:
        cfg: the configuration; periods given in epochs become iterations in it.
        build_model: cfg -> model.

    Methods to override: build_train_loader, build_test_loader, build_optimizer,
    build_lr_scheduler, build_evaluator, build_writers, build_hooks, run_step, test.
    """

    def __init__(self, cfg: Any, build_model: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        self.cfg = cfg
        self.plan = plan_batches(cfg, comm.get_world_size())
        self.data_loader = self.build_train_loader(cfg, self.plan)
        resolve_epochs(cfg, len(self.data_loader.dataset))
        self.max_iter = cfg.SOLVER.LR_SCHEDULER.MAX_ITER
        self.window_size = cfg.TRAINER.WINDOW_SIZE

        model = prepare_model(cfg, build_model)
        check_num_classes(model, self.data_loader.dataset.dataset.meta, cfg.DATASETS.TRAIN)
        self.bare_model = model
        self.optimizer = self.build_optimizer(cfg, model)
        self.model = self._distribute(model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp_dtype == "fp16")
        ema = cfg.TRAINER.EMA
        self.ema = hooks.ModelEMA(model, ema.DECAY) if ema.ENABLED else None
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler if self.scaler.is_enabled() else None,
            ema=self.ema,
        )
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
        """In the order in which they run: evaluation sees the average, writers see everything."""
        cfg = self.cfg
        main = comm.is_main_process()
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            self.ema,
            hooks.PeriodicCheckpointer(self.save, cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate) if cfg.DATASETS.TEST else None,
            hooks.PeriodicWriter(self.build_writers(), cfg.GLOBAL.LOG_INTERVAL) if main else None,
        ]

    # -- training ------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.bare_model.parameters()).device

    @property
    def _amp_dtype(self) -> str | None:
        amp = self.cfg.TRAINER.AMP
        return amp.DTYPE if amp.ENABLED else None

    def _autocast(self) -> Any:
        return autocast(self.cfg, self.device.type)

    def _distribute(self, model: nn.Module) -> nn.Module:
        if comm.get_world_size() == 1:
            return model
        ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model,
            device_ids=ids,
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.TRAINER.FIND_UNUSED_PARAMETERS,
        )

    def resume_or_load(self, resume: bool = True) -> None:
        """With `resume`, go on from last_checkpoint where there is one; else MODEL.WEIGHTS."""
        content = self.checkpointer.resume() if resume else None
        if content is None:
            if resume:
                logger.info(f"No last_checkpoint in {self.cfg.OUTPUT_DIR}: starting anew.")
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, config=self.cfg)
            if self.ema is not None:
                self.ema.load_state_dict(self.bare_model.state_dict())
            return
        if "iteration" not in content:
            raise CheckpointError("last_checkpoint names weights without an iteration to resume.")
        self.start_iter = content["iteration"] + 1
        self._restore_random_states(content)
        logger.info(f"Going on at iteration {self.start_iter} of {self.max_iter}.")

    def _restore_random_states(self, content: Mapping[str, Any]) -> None:
        if "seed" in content and content["seed"] != self.cfg.SEED:
            logger.info(f"SEED {content['seed']} of the checkpoint replaces {self.cfg.SEED}.")
            self.cfg.SEED = content["seed"]
            self.data_loader = self.build_train_loader(self.cfg, self.plan)
        states = content.get("random_states", [])
        if comm.get_rank() < len(states):
            set_rng_state(states[comm.get_rank()])

    def save(self, name: str) -> None:
        """Save everything that resuming needs; every rank must call it."""
        random_states = comm.gather(get_rng_state())
        meta = self.data_loader.dataset.dataset.meta
        self.checkpointer.save(
            name,
            iteration=self.iter,
            seed=self.cfg.SEED,
            random_states=random_states,
            thing_classes=list(getattr(meta, "thing_classes", [])),
        )

    def train(self) -> Any:  # type: ignore[override] - the loop's bounds come from the config
        """Train from start_iter to MAX_ITER; returns the last evaluation's results (rank 0).

        Raises:
            ConfigError: TEST.EXPECTED_RESULTS are missed.
        """
        self.results: Mapping[str, Any] = {}
        if self.start_iter >= self.max_iter:
            logger.info(f"All {self.max_iter} iterations are done already.")
            return self.results
        self.data_loader.batch_sampler.start_iter = self.start_iter
        self._batches = iter(self.data_loader)
        super().train(self.start_iter, self.max_iter)
        return self.results

    def run_step(self) -> None:
        """One optimiser step over all accumulation steps.

        Every image weighs the same: a pass over n images counts n x world size / IMS_PER_BATCH.
        """
        assert self.model.training, "The model was changed to eval mode!"
        self.optimizer.zero_grad(set_to_none=True)
        passes, data_time = [], 0.0
        for step in range(self.plan.steps):
            start = time.perf_counter()
            data = next(self._batches)
            data_time += time.perf_counter() - start
            last = step + 1 == self.plan.steps
            with nullcontext() if last else self._no_sync():
                with self._autocast():
                    loss_dict = self.model(data)
                weight = len(data) * comm.get_world_size() / self.plan.total
                total = sum(loss for loss in loss_dict.values() if loss.requires_grad)
                self.scaler.scale(total * weight).backward()
            passes.append({name: loss.detach() * weight for name, loss in loss_dict.items()})
        losses = {name: torch.stack([p[name] for p in passes]).sum() for name in passes[0]}
        self._write_metrics(losses, data_time)
        self._step_optimizer()

    def _no_sync(self) -> Any:
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if distributed else nullcontext()

    def _step_optimizer(self) -> None:
        clip = self.cfg.SOLVER.CLIP_GRADIENTS
        if clip.ENABLED:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(
                self.bare_model.parameters(),
                clip_type=clip.CLIP_TYPE,
                clip_value=clip.CLIP_VALUE,
                norm_type=clip.NORM_TYPE,
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = ""
    ) -> None:
        """Record the losses, averaged over the ranks; stop on one that is not finite.

        Raises:
            FloatingPointError: names the losses and the iteration; no weight has changed yet.
        """
        reduced = comm.reduce_dict(
            {**loss_dict, "data_time": torch.tensor(data_time).to(self.device)}
        )
        values = {name: value.item() for name, value in reduced.items()}
        self.storage.put_scalar("data_time", values.pop("data_time"))
        total = sum(value for name, value in values.items() if "loss" in name)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"The loss became infinite or NaN at iteration {self.iter}: {values}. A lower "
                "SOLVER.OPTIMIZER.BASE_LR, a longer warm-up or SOLVER.CLIP_GRADIENTS may help."
            )
        self.storage.put_scalars(**{f"{prefix}total_loss": total})
        self.storage.put_scalars(**{f"{prefix}{name}": value for name, value in values.items()})

    # -- evaluation ----------------------------------------------------------------------------

    def evaluate(self) -> Mapping[str, Any]:
        """Evaluate the present weights, averaged ones where TRAINER.EMA is on."""
        model = self.ema.module if self.ema is not None else self.bare_model
        self.results = self.test(self.cfg, model)
        if comm.is_main_process() and self.cfg.TEST.EXPECTED_RESULTS:
            last = self.iter + 1 >= self.max_iter
            if last and not verify_results(self.cfg.TEST.EXPECTED_RESULTS, self.results):
                raise ConfigError("TEST.EXPECTED_RESULTS are missed; see the lines above.")
        return self.results

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
        results = cls._evaluate(cfg, model, folder, cls.build_evaluator)
        if comm.is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "results.json").write_text(json.dumps(without_nan(results), indent=1) + "\n")
        return results

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
        return cls._evaluate(cfg, PreAndPostNMS(model), folder, build_evaluator)

    @classmethod
    def _evaluate(
        cls, cfg: Any, model: nn.Module, folder: Path, build_evaluator: Callable[..., Any]
    ) -> Any:
        names = cfg.DATASETS.TEST
        if not names:
            raise ConfigError("DATASETS.TEST names no data set to evaluate on.")
        prepared = []  # all of them, before hours go into the first
        for name in names:
            loader = cls.build_test_loader(cfg, name)
            check_num_classes(model, loader.dataset.meta, name)
            own = dataset_folder(cfg, folder, name)
            prepared.append((name, loader, build_evaluator(cfg, name, loader.dataset, own)))
        results: dict[str, Any] = {}
        device = next(chain(model.parameters(), model.buffers())).device.type
        for name, loader, evaluator in prepared:
            results[name] = inference_on_dataset(model, loader, evaluator, autocast(cfg, device))
            if comm.is_main_process():
                print_csv_format(name, results[name])
        if not comm.is_main_process():
            return {}
        return results[names[0]] if len(names) == 1 else results


def inference_folder(cfg: Any) -> Path:
    """Where results go: those of test-time augmentation beside the plain ones."""
    return Path(cfg.OUTPUT_DIR) / ("inference_TTA" if cfg.TEST.AUG.ENABLED else "inference")


def dataset_folder(cfg: Any, folder: Path, name: str) -> Path:
    """Where results on one test data set go: `folder`; one of its own in it beside others."""
    return folder if len(cfg.DATASETS.TEST) == 1 else folder / name


def autocast(cfg: Any, device_type: str) -> Any:
    """Mixed precision as TRAINER.AMP says; a context that does nothing where it is off."""
    amp = cfg.TRAINER.AMP
    if amp.ENABLED and amp.DTYPE not in _DTYPES:
        raise ConfigError(f"TRAINER.AMP.DTYPE must be one of {list(_DTYPES)}, got {amp.DTYPE!r}.")
    return torch.autocast(device_type, dtype=_DTYPES.get(amp.DTYPE), enabled=bool(amp.ENABLED))


def prepare_model(cfg: Any, build_model: Callable[[Any], nn.Module]) -> nn.Module:
    """Build the model, on its device, in the memory layout and compiled as TRAINER says."""
    model = maybe_convert_module(build_model(cfg)).to(cfg.MODEL.DEVICE)
    if cfg.TRAINER.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    if cfg.TRAINER.COMPILE:
        for part in (getattr(model, "backbone", None), getattr(model, "head", None)):
            if isinstance(part, nn.Module):
                part.compile(dynamic=True)  # in place: state-dict keys stay
    return model
