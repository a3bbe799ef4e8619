"""Detector of an experiment for images of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np
import torch
from loguru import logger
from PIL import Image
from torch import Tensor, nn

from cvpods.checkpoint import newest_checkpoint
from cvpods.configs import BaseConfig
from cvpods.data.build import test_transforms
from cvpods.data.datasets.paths import dataset_class
from cvpods.data.detection_utils import image_to_array, read_image, reading_options
from cvpods.engine.defaults import refuse_unsupported
from cvpods.engine.model import autocast
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation, groups_of_one_size
from cvpods.structures import Instances
from cvpods.structures.samples import Detection, Sample
from cvpods.tools.detectors import load_detector
from cvpods.tools.experiment import BuildModel, open_experiment
from cvpods.tools.weights import typed_weights
from cvpods.utils.env import select_device
from cvpods.utils.errors import DataError

if TYPE_CHECKING:
    from cvpods.modeling.meta_arch import DenseDetector

AnyImage: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"


class Predictor:
    """Detector for paths, PIL images, numpy arrays and tensors, alone or in a list.

    The model is in evaluation mode, and a call changes no state: several threads may call one
    predictor at the same time.

        predictor = Predictor.from_experiment("playground/atss.res50.1x", weights="x.pth")
        found = predictor("street.jpg")
        sure = found[found.scores > 0.5]

    Args:
        model: in evaluation: list of {"image", "height", "width"} -> list of {"instances"}.
        class_names: one per class of the model.
        transforms: those of INPUT.AUG.TEST_PIPELINES.
        image_format: channel order of the model's images, "BGR" or "RGB".
        autocast: a function that returns the context for the forward pass.
        batch_size: the most images of one size that are detected at once.
        one_size: the model brings images of all sizes to one size.
        reading: keyword arguments of read_image() for image files.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        transforms: Sequence[Callable],
        image_format: str,
        autocast: Callable[[], Any],
        batch_size: int = 8,
        one_size: bool = False,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.class_names = list(class_names)
        self.transforms = list(transforms)
        self.image_format = image_format
        self.autocast = autocast
        self.batch_size = batch_size
        self.one_size = one_size
        self.reading = dict(reading or {})

    @classmethod
    def from_experiment(
        cls,
        folder: str | Path,
        weights: str | Path | None = None,
        *,
        device: str | None = None,
        opts: Sequence[Any] = (),
    ) -> Predictor:
        """Return the detector of an experiment's folder, with the config's TEST.AUG.

        Args:
            weights: path or address, or a graph that pods_export wrote (x.onnx, x.pt2). None is
                MODEL.WEIGHTS of `opts`, or the newest checkpoint in the experiment's OUTPUT_DIR.
            device: "cuda", "cuda:1" or "cpu"; None is MODEL.DEVICE.
            opts: further overrides, [KEY, VALUE, KEY, VALUE, ...].

        Raises:
            PodsError: the folder is not an experiment, the weights do not fit, or a key is wrong.
        """
        cfg, build_model = open_experiment(folder, opts, device)
        return cls.from_config(cfg, build_model, weights or typed_weights(cfg, opts))

    @classmethod
    def from_config(
        cls, cfg: BaseConfig, build_model: BuildModel, weights: str | Path | None = None
    ) -> Predictor:
        """Return the detector of an experiment's (config, build_model); see from_experiment()."""
        refuse_unsupported(cfg)
        cfg.MODEL.DEVICE = select_device(cfg.MODEL.DEVICE)
        weights = weights or newest_checkpoint(cfg.OUTPUT_DIR)
        model, names = load_detector(cfg, build_model, weights)
        num_classes = getattr(model, "num_classes", None)
        if not names or len(names) != num_classes:
            numbered = [f"class {index}" for index in range(num_classes or 0)]
            names = class_names(cfg, num_classes) or numbered
        one_size = getattr(model, "one_size", False)
        if cfg.TEST.AUG.ENABLED:
            model = TestTimeAugmentation.from_config(cfg, cast("DenseDetector", model))
        context = partial(autocast, cfg, cfg.MODEL.DEVICE.split(":")[0])
        return cls(
            model,
            names,
            test_transforms(cfg),
            cfg.INPUT.FORMAT,
            context,
            batch_size=max(8, cfg.TEST.IMS_PER_DEVICE),
            one_size=one_size,
            reading=reading_options(cfg),
        )

    @overload
    def __call__(  # type: ignore[overload-overlap] # a str is a sequence of str, too
        self, images: AnyImage
    ) -> Instances: ...
    @overload
    def __call__(self, images: Sequence[AnyImage]) -> list[Instances]: ...
    def __call__(self, images: Any) -> Any:
        """Detect objects in an image, or in several.

        Args:
            images: one, or a list. Arrays are (H, W), (H, W, 1) or (H, W, 3) uint8, tensors
                (1, H, W) or (3, H, W) uint8; both RGB. With one more dimension they are lists.

        Returns:
            Instances(pred_boxes, scores, pred_classes) on the CPU, best first, boxes in pixels of
            the image; a list of them for a list. An image's detections do not depend on the others.

        Raises:
            DataError: an image cannot be read, or is not an image.
        """
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
            images = list(images)
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        inputs = [self.prepare(image) for image in images]
        outputs: dict[int, Detection] = {}
        with torch.inference_mode():
            for group in self._groups([i["image"] for i in inputs]):
                for start in range(0, len(group), self.batch_size):
                    members = group[start : start + self.batch_size]
                    with self.autocast():
                        found = self.model([inputs[i] for i in members])
                    outputs.update(zip(members, found, strict=True))
        return [_best_first(outputs[i]["instances"].to("cpu")) for i in range(len(inputs))]

    def _groups(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Return the indices of images that may share a batch.

        These are images of the same size, because padding one to the size of another would change
        its detections. A graph of fixed size pads all of them alike.
        """
        if self.one_size:
            return [list(range(len(images)))]
        return groups_of_one_size(images)

    def prepare(self, image: AnyImage) -> Sample:
        """Return the model's input: the transformed image, and the image's own height and width."""
        array = as_array(image, self.image_format, self.reading)
        height, width = array.shape[:2]
        for transform in self.transforms:
            array, _ = transform(array, None)
        tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
        return {"image": tensor, "height": height, "width": width}


def _best_first(found: Instances) -> Instances:
    """Return a copy in the order of the scores."""
    return found[found.scores.argsort(descending=True, stable=True)]


def as_array(
    image: AnyImage, image_format: str, reading: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Return any image as (H, W, 3) uint8 in `image_format`; arrays and tensors are RGB.

    Args:
        reading: keyword arguments of read_image().

    Raises:
        DataError: it cannot be read, or is of another type, shape or dtype.
    """
    if isinstance(image, (str, Path)):
        return read_image(image, image_format, **(reading or {}))
    if isinstance(image, Image.Image):
        level = (reading or {}).get("white_level")
        return image_to_array(image, image_format, white_level=level)
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise DataError(
            "An image must be a path, a PIL image, a numpy array (H, W, 3) or a tensor (3, H, W); "
            f"got {type(image).__name__}."
        )
    if array.dtype != np.uint8:
        raise DataError(
            f"Arrays and tensors of images must hold uint8 in 0 ... 255; got {array.dtype}. For "
            "values in 0 ... 1, pass (image * 255).round() as uint8."
        )
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        kind = "(1 or 3, H, W)" if isinstance(image, Tensor) else "(H, W, 1 or 3)"
        raise DataError(f"An image must have the shape {kind}; got {tuple(image.shape)}.")
    array = np.broadcast_to(array, (*array.shape[:2], 3))
    return np.array(array[..., ::-1] if image_format == "BGR" else array, order="C")


def coco_class_names() -> list[str]:
    """Return COCO's 80 classes in the order of their ids, as torchvision's weights name them."""
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    listed = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [name for name in listed if name not in ("__background__", "N/A")]


def class_names(cfg: BaseConfig, num_classes: int | None) -> list[str]:
    """Return the class names of the first test data set.

    COCO's are known without its files.

    Returns:
        [] if the data set is not found, or has another number of classes than `num_classes`.
    """
    dataset = next(iter(cfg.DATASETS.TEST), "")
    names = coco_class_names() if dataset.startswith("coco_") else []
    if not names:
        try:
            meta = dataset_class(dataset)(cfg, dataset, is_train=False).meta
            names = list(meta["thing_classes"])
        except DataError as error:
            logger.debug(f"Class names are not read from {dataset!r}: {error}")
    return names if num_classes is None or len(names) == num_classes else []
