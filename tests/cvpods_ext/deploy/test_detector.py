"""A graph in the place of weights: Predictor, fixed shapes, partial batches, what must fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cvpods.checkpoint.expectations import check_expectations
from cvpods.modeling.pre_and_post_nms import PreAndPostNMS
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation
from cvpods.structures import ImageList
from cvpods.tools import Predictor
from cvpods.utils.errors import ConfigError, DataError
from cvpods_ext.deploy.detector import GraphRunner, load_graph
from cvpods_ext.deploy.info import expected_of
from tests.cvpods_ext.deploy.small import (
    as_inputs,
    folder_of,
    noise_image,
    small_config,
    small_detector,
    small_opts,
)

pytest.importorskip("onnxruntime")

THREE_LEVELS = ["MODEL.FREE_ANCHOR.IN_FEATURES", "['p3', 'p4', 'p5']"]
FIXED = ("--half", "--simplify", "--overwrite-input-shape", "input:4,3,96,128")


def rgb(height, width, seed=0):
    return noise_image(height, width, seed).permute(1, 2, 0).numpy()


def predictor(weights, *opts):
    return Predictor.from_experiment(
        folder_of("free_anchor"), weights, device="cpu", opts=[*small_opts("free_anchor"), *opts]
    )


@pytest.mark.parametrize("flags", [(), ("--with-postprocess",), ("--format", "pt2")])
def test_predictor_takes_a_graph_as_it_takes_weights(exported, tmp_path, flags):
    path, weights = exported("free_anchor", *flags), tmp_path / "free_anchor.pth"
    torch.save({"model": small_detector("free_anchor").state_dict()}, weights)
    images = [rgb(120, 200), rgb(200, 120, 1), rgb(64, 64, 2)]
    wanted = predictor(weights)(images)
    found = predictor(path)(images)
    assert sum(map(len, wanted)) > 100
    for one, other, image in zip(found, wanted, images, strict=True):
        assert one.image_size == other.image_size == image.shape[:2]
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
        top = one.pred_boxes.tensor[:5], other.pred_boxes.tensor[:5]
        torch.testing.assert_close(*top, atol=0.05, rtol=0)


def test_fixed_shape(exported):
    """Images of any size are scaled to fit 96 x 128 and padded; five are two batches of four."""
    model = predictor(exported("free_anchor", *FIXED))
    assert model.one_size and model.transforms[0].shape == (96, 128)
    images = [rgb(120, 200), rgb(200, 120, 1), rgb(64, 64, 2), rgb(8, 400, 3), rgb(96, 128, 4)]
    together = model(images)
    for found, image in zip(together, images, strict=True):
        assert len(found) > 0 and found.image_size == image.shape[:2]
        alone = model(image)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=0)
    wanted = small_detector("free_anchor")
    image = torch.from_numpy(np.ascontiguousarray(images[4][..., ::-1])).permute(2, 0, 1)
    with torch.inference_mode():
        (same_size,) = wanted(as_inputs([image]))
    scores = same_size["instances"].scores
    torch.testing.assert_close(together[4].scores[:20], scores[:20], atol=5e-3, rtol=0)


def test_stretch(exported):
    """Boxes are scaled back by each axis' own factor: that of the whole picture stays it."""
    opts = ["TEST.GRAPH.RESIZE", "stretch"]
    model = predictor(exported("free_anchor", *FIXED), *opts)
    prepared = model.prepare(rgb(200, 64))
    assert prepared["image"].shape == (3, 96, 128)
    assert (prepared["height"], prepared["width"]) == (200, 64)
    found = model(rgb(200, 64))
    assert found.image_size == (200, 64) and found.pred_boxes.tensor[:, 3].max() > 128


class Recorder:
    """A session of fixed shape; returns each image's mean."""

    batch, size, shapes = 4, (8, 16), {"input": (4, 3, 8, 16)}

    def __init__(self):
        self.seen = []

    def __call__(self, feeds):
        self.seen.append(feeds["input"])
        assert list(feeds) == ["input"] and feeds["input"].shape == (4, 3, 8, 16)
        return {"mean": feeds["input"].mean(dim=(1, 2, 3))}


@pytest.mark.parametrize("count, runs", [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_partial_batches(count, runs):
    session = Recorder()
    tensor = torch.randn(count, 3, 8, 16)
    found = GraphRunner(session)(ImageList(tensor, [(8, 16)] * count))["mean"]
    assert len(session.seen) == runs
    torch.testing.assert_close(found, tensor.mean(dim=(1, 2, 3)))


def test_smaller_images_are_padded_and_larger_ones_refused():
    session = Recorder()
    GraphRunner(session)(ImageList(torch.ones(1, 3, 4, 8), [(4, 8)]))
    assert session.seen[0][0].sum() == 3 * 4 * 8 and (session.seen[0][0, :, :4, :8] == 1).all()
    with pytest.raises(DataError, match="Images of 9 x 8 pixels .* do not fit into .* 8 x 16"):
        GraphRunner(session)(ImageList(torch.ones(1, 3, 9, 8), [(9, 8)]))


# -- what must fit ---------------------------------------------------------------------------------


def test_other_input_is_refused(exported):
    path = exported("free_anchor")
    for key, value in (("INPUT.FORMAT", "RGB"), ("MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]")):
        with pytest.raises(ConfigError, match=rf"(?s)The graph .*{key} is"):
            load_graph(*small_config("free_anchor", [key, value]), path)


def test_post_processing_inside_the_graph_cannot_be_changed(exported):
    """Refuse other post-processing for a detector's graph; a network's graph leaves it open."""
    opts = ["MODEL.FREE_ANCHOR.NMS_THRESH_TEST", 0.3]
    load_graph(*small_config("free_anchor", opts), exported("free_anchor"))
    with pytest.raises(ConfigError, match="NMS_THRESH_TEST is 0.3; they expect 0.5"):
        path = exported("free_anchor", "--with-postprocess")
        load_graph(*small_config("free_anchor", opts), path)


def test_another_method_is_refused(exported):
    with pytest.raises(ConfigError, match=r"method 'FreeAnchor' \(here 'ATSS'\)"):
        load_graph(*small_config("atss"), exported("free_anchor"))
    with pytest.raises(ConfigError, match=r"method 'FreeAnchor' \(here 'Linear'\)"):
        model = torch.nn.Linear(1, 1)
        load_graph(small_config("free_anchor")[0], lambda _: model, exported("free_anchor"))


@pytest.mark.parametrize("flags", [(), ("--with-postprocess",)])
@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.FREE_ANCHOR.NUM_CLASSES", 3], r"classes 6 \(here 3\)"),
        (["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]"], "anchors of a location"),
        ([*THREE_LEVELS, "MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]"], "levels"),
    ],
)
def test_another_network_is_refused(exported, flags, opts, message):
    """A graph of another network is refused, even if weights are not checked."""
    opts = [*opts, "MODEL.CHECK_WEIGHTS", False]
    with pytest.raises(ConfigError, match=message):
        load_graph(*small_config("free_anchor", opts), exported("free_anchor", *flags))


@pytest.mark.parametrize(
    "method, key, value",
    [
        ("atss", "MODEL.ATSS.ANCHOR_SCALE", 8),
        ("atss", "MODEL.ATSS.REGRESSION_TYPE", "POINT"),
        ("atss", "MODEL.ATSS.SCORE_TYPE", "product"),
        ("atss", "MODEL.PLUS_ONE", True),
        ("auto_assign", "MODEL.AUTO_ASSIGN.CAP_AT_LOCATIONS", False),
        ("auto_assign", "MODEL.AUTO_ASSIGN.CLIP_BEFORE_NMS", True),
        ("auto_assign", "MODEL.AUTO_ASSIGN.POINT_OFFSET", 0.25),
        ("feature_align", "MODEL.FEATURE_ALIGN.TOPK_CANDIDATES_TEST", 7),
        ("free_anchor", "MODEL.FREE_ANCHOR.SCORE_THRESH_TEST", 0.3),
        ("free_anchor", "MODEL.FREE_ANCHOR.BBOX_REG_WEIGHTS", "(1.0, 1.0, 1.0, 1.0)"),
        ("free_anchor", "MODEL.ANCHOR_GENERATOR.OFFSET", 0.25),
        ("free_anchor", "MODEL.NMS_TYPE", "cluster"),
        ("free_anchor", "TEST.DETECTIONS_PER_IMAGE", 7),
        ("retinanet", "MODEL.RETINANET.NMS_THRESH_TEST", 0.1),
        ("fcos", "MODEL.FCOS.NORM_REG_TARGETS", True),
        ("fcos", "MODEL.SHIFT_GENERATOR.OFFSET", 0.25),
    ],
)
def test_a_detectors_graph_knows_its_post_processing(method, key, value):
    expects = expected_of(small_config(method)[0], "detector")
    json.dumps(expects, allow_nan=False)
    changed = small_config(method, [key, value])[0]
    with pytest.raises(ConfigError, match=key):
        check_expectations(changed, expects, "x.onnx")
    check_expectations(changed, expected_of(changed, "network"), "x.onnx")


@pytest.mark.parametrize("key, value", [("RESIZE", "crop"), ("PROVIDER", "gpu")])
def test_keys(exported, key, value):
    with pytest.raises(ConfigError, match=value):
        load_graph(
            *small_config("free_anchor", [f"TEST.GRAPH.{key}", value]), exported("free_anchor")
        )


# -- what else works on detectors ------------------------------------------------------------------


def test_augmentation_and_nms_recall_of_a_network(exported):
    opts = ["TEST.AUG.MIN_SIZES", "(64, 96)", "TEST.AUG.MAX_SIZE", 128]
    cfg, build_model = small_config("free_anchor", opts)
    graph, _ = load_graph(cfg, build_model, exported("free_anchor"))
    inputs = as_inputs([noise_image(96, 128)])
    with torch.inference_mode():
        found = TestTimeAugmentation.from_config(cfg, graph)(inputs)
        wanted = TestTimeAugmentation.from_config(cfg, small_detector("free_anchor"))(inputs)
        (both,) = PreAndPostNMS(graph)(inputs)
    scores = found[0]["instances"].scores, wanted[0]["instances"].scores
    torch.testing.assert_close(*scores, atol=1e-3, rtol=0)
    assert len(both["before"]) > len(both["after"]) > 0


def test_augmentation_and_nms_recall_of_a_detector_are_refused(exported):
    cfg, build_model = small_config("free_anchor")
    graph, _ = load_graph(cfg, build_model, exported("free_anchor", "--with-postprocess"))
    for wrap in (PreAndPostNMS, lambda model: TestTimeAugmentation.from_config(cfg, model)):
        with pytest.raises(ConfigError, match="not with GraphDetector"):
            wrap(graph)


def test_outputs_that_are_nan_are_refused():
    """Such a graph detects nothing; its AP of 0 would look like a result."""

    class Broken:
        batch = size = None
        shapes = {"input": (0, 3, 0, 0)}

        def __call__(self, feeds):
            return {"labels": torch.zeros(1), "cls_logits_p3": torch.tensor([0.0, torch.nan])}

    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    with pytest.raises(DataError, match="output cls_logits_p3 is NaN"):
        GraphRunner(Broken())(images)
