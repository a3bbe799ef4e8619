"""Names that ten or more files of published detection experiments import."""

import importlib

import pytest

NAMES = [
    "cvpods.layers.ShapeSpec",
    "cvpods.modeling.backbone.Backbone",
    "cvpods.configs.fcos_config.FCOSConfig",
    "cvpods.structures.Boxes",
    "cvpods.layers.cat",
    "cvpods.modeling.anchor_generator.ShiftGenerator",
    "cvpods.structures.Instances",
    "cvpods.modeling.losses.iou_loss",
    "cvpods.structures.ImageList",
    "cvpods.modeling.postprocessing.detector_postprocess",
    "cvpods.utils.log_first_n",
    "cvpods.modeling.meta_arch.retinanet.permute_to_N_HWA_K",
    "cvpods.modeling.backbone.fpn.build_retinanet_resnet_fpn_backbone",
    "cvpods.modeling.box_regression.Shift2BoxTransform",
    "cvpods.modeling.losses.sigmoid_focal_loss_jit",
    "cvpods.structures.pairwise_iou",
    "cvpods.layers.generalized_batched_nms",
    "cvpods.utils.comm",
    "cvpods.modeling.backbone.fpn.build_retinanet_resnet_fpn_p5_backbone",
    "cvpods.modeling.anchor_generator.DefaultAnchorGenerator",
    "cvpods.layers.batched_nms",
    "cvpods.utils.get_event_storage",
    "cvpods.data.datasets.COCODataset",
    "cvpods.modeling.meta_arch.fcos.Scale",
    "cvpods.modeling.losses.smooth_l1_loss",
    "cvpods.modeling.meta_arch.retinanet.permute_all_cls_and_box_to_N_HWA_K_and_concat",
]
MODULES = {"cvpods.utils.comm"}


@pytest.mark.parametrize("dotted", NAMES)
def test_name_is_importable(dotted):
    module, _, name = dotted.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    # A sub-module of the same name must not hide a function.
    assert callable(found) != (dotted in MODULES)
