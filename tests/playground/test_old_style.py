"""An experiment written for the old cvpods: its config.py and net.py run as they are."""

from __future__ import annotations

import json

import pytest
import torch

CONFIG = """
import os.path as osp

from cvpods.configs.fcos_config import FCOSConfig
from cvpods.data import register_coco_instances

root = "shapes"
for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"{root}/annotations/instances_{split}.json", f"{root}/{split}"
    )

_config_dict = dict(
    MODEL=dict(
        WEIGHTS="",
        RESNETS=dict(DEPTH=18, RES2_OUT_CHANNELS=64, NORM="BN"),
        FPN=dict(OUT_CHANNELS=64),
        BACKBONE=dict(FREEZE_AT=0),
        FCOS=dict(
            NUM_CLASSES=6,
            NUM_CONVS=1,
            CENTERNESS_ON_REG=True,
            NORM_REG_TARGETS=True,
            IOU_LOSS_TYPE="giou",
            REG_WEIGHT=2.0,
        ),
    ),
    DATASETS=dict(TRAIN=("shapes_train",), TEST=("shapes_val",)),
    DATALOADER=dict(NUM_WORKERS=0),
    SOLVER=dict(
        MAX_ITER=2,
        STEPS=(1,),
        BASE_LR=0.01,
        IMS_PER_BATCH=2,
        IMS_PER_DEVICE=2,
    ),
    INPUT=dict(
        AUG=dict(
            TRAIN_PIPELINES=[
                ("ResizeShortestEdge",
                    dict(short_edge_length=(64), max_size=96, sample_style="choice")),
                ("RandomFlip", dict()),
            ],
            TEST_PIPELINES=[
                ("ResizeShortestEdge",
                    dict(short_edge_length=64, max_size=96, sample_style="choice")),
            ],
        )
    ),
    TEST=dict(EVAL_PEROID=1),
    OUTPUT_DIR=osp.join(osp.dirname(osp.realpath(__file__)), "results"),
)


class CustomFCOSConfig(FCOSConfig):
    def __init__(self):
        super(CustomFCOSConfig, self).__init__()
        self._register_configuration(_config_dict)


config = CustomFCOSConfig()
"""

NET = """
import logging

from cvpods.layers import ShapeSpec
from cvpods.modeling.anchor_generator import ShiftGenerator
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.backbone.fpn import build_retinanet_resnet_fpn_p5_backbone
from fcos import FCOS


def build_backbone(cfg, input_shape=None):
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = build_retinanet_resnet_fpn_p5_backbone(cfg, input_shape)
    assert isinstance(backbone, Backbone)
    return backbone


def build_shift_generator(cfg, input_shape):
    return ShiftGenerator(cfg, input_shape)


def build_model(cfg):
    cfg.build_backbone = build_backbone
    cfg.build_shift_generator = build_shift_generator
    model = FCOS(cfg)
    logger = logging.getLogger(__name__)
    logger.info("Model:\\n{}".format(model))
    return model
"""

# A model of one's own, on the names that published models import.
MODEL = '''
import math

import torch
from torch import nn

from cvpods.layers import ShapeSpec, cat, generalized_batched_nms
from cvpods.modeling.box_regression import Shift2BoxTransform
from cvpods.modeling.losses import iou_loss, sigmoid_focal_loss_jit
from cvpods.modeling.meta_arch.fcos import Scale
from cvpods.modeling.meta_arch.retinanet import permute_to_N_HWA_K
from cvpods.modeling.postprocessing import detector_postprocess
from cvpods.structures import Boxes, ImageList, Instances
from cvpods.utils import comm, get_event_storage, log_first_n


class FCOS(nn.Module):
    """Every point inside a box learns it, the smallest box first."""

    def __init__(self, cfg):
        super().__init__()
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.num_classes = cfg.MODEL.FCOS.NUM_CLASSES
        self.in_features = cfg.MODEL.FCOS.IN_FEATURES
        self.fpn_strides = cfg.MODEL.FCOS.FPN_STRIDES
        self.reg_weight = cfg.MODEL.FCOS.REG_WEIGHT
        self.backbone = cfg.build_backbone(
            cfg, input_shape=ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
        shapes = self.backbone.output_shape()
        shapes = [shapes[f] for f in self.in_features]
        self.shift_generator = cfg.build_shift_generator(cfg, shapes)
        assert self.shift_generator.num_cell_shifts == [1] * 5
        channels = shapes[0].channels
        self.cls = nn.Conv2d(channels, self.num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.constant_(self.cls.bias, -math.log(99))
        self.scales = nn.ModuleList([Scale(init_value=1.0) for _ in self.fpn_strides])
        self.shift2box = Shift2BoxTransform(weights=cfg.MODEL.FCOS.BBOX_REG_WEIGHTS)
        mean = torch.Tensor(cfg.MODEL.PIXEL_MEAN).to(self.device).view(3, 1, 1)
        std = torch.Tensor(cfg.MODEL.PIXEL_STD).to(self.device).view(3, 1, 1)
        self.normalizer = lambda x: (x - mean) / std
        self.to(self.device)

    def forward(self, batched_inputs):
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = ImageList.from_tensors(
            [self.normalizer(x) for x in images], self.backbone.size_divisibility)
        features = self.backbone(images.tensor)
        features = [features[f] for f in self.in_features]
        cls = cat([permute_to_N_HWA_K(self.cls(f), self.num_classes) for f in features], dim=1)
        box = cat([
            permute_to_N_HWA_K(torch.relu(scale(self.box(f))) * stride + 1, 4)
            for f, scale, stride in zip(features, self.scales, self.fpn_strides)], dim=1)
        shifts = self.shift_generator(features)
        if self.training:
            gt = [x["instances"].to(self.device) for x in batched_inputs]
            return self.losses(shifts, cls, box, gt)
        return self.inference(shifts, cls, box, images, batched_inputs)

    def losses(self, shifts, cls, box, gt_instances):
        classes, deltas = [], []
        for shifts_per_image, gt in zip(shifts, gt_instances):
            over_all = torch.cat(shifts_per_image, dim=0)
            d = self.shift2box.get_deltas(over_all, gt.gt_boxes.tensor.unsqueeze(1))
            area = gt.gt_boxes.area().unsqueeze(1).repeat(1, over_all.size(0))
            area[d.min(dim=-1).values <= 0] = math.inf
            best, index = area.min(dim=0)
            label = gt.gt_classes[index]
            label[best == math.inf] = self.num_classes
            classes.append(label)
            deltas.append(d[index, torch.arange(len(index))])
        classes, deltas = torch.cat(classes), torch.cat(deltas)
        cls, box = cls.reshape(-1, self.num_classes), box.reshape(-1, 4)
        fg = classes < self.num_classes
        num = max(comm.all_reduce(fg.sum()) / float(comm.get_world_size()), 1.0)
        target = torch.zeros_like(cls)
        target[fg, classes[fg]] = 1
        get_event_storage().put_scalar("num_foreground", fg.sum().item())
        log_first_n("WARNING", "a message of the model", n=1)
        return dict(
            loss_cls=sigmoid_focal_loss_jit(
                cls, target, alpha=0.25, gamma=2.0, reduction="sum") / num,
            loss_box=iou_loss(box[fg], deltas[fg], box_mode="ltrb", loss_type="giou",
                              reduction="sum") / num * self.reg_weight,
        )

    def inference(self, shifts, cls, box, images, batched_inputs):
        results = []
        for i, size in enumerate(images.image_sizes):
            scores, classes = cls[i].sigmoid().max(dim=1)
            boxes = self.shift2box.apply_deltas(box[i], torch.cat(shifts[i]))
            keep = generalized_batched_nms(boxes, scores, classes, 0.6, nms_type="normal")[:20]
            result = Instances(size)
            result.pred_boxes = Boxes(boxes[keep])
            result.scores = scores[keep]
            result.pred_classes = classes[keep]
            out = batched_inputs[i]
            results.append(
                {"instances": detector_postprocess(result, out["height"], out["width"])})
        return results
'''


@pytest.mark.slow
def test_old_style_experiment(tmp_path, run_command):
    for name, text in (("config.py", CONFIG), ("net.py", NET), ("fcos.py", MODEL)):
        (tmp_path / name).write_text(text)
    result = run_command(["pods_train"], tmp_path)
    assert "Did you mean TEST.EVAL_PERIOD" in result.stderr
    assert result.stderr.count("a message of the model") == 1
    output = tmp_path / "results"
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 1
    last = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    assert "bbox/AP" in last and last["num_foreground"] > 0
    run_command(["pods_test", "MODEL.WEIGHTS", "results/model_final.pth"], tmp_path)
