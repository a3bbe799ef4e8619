"""PyTorch against ONNX, for all methods: the network's outputs, and the detections.

Bounds: FP32 outputs 1e-4 of max(1, |value|); FP16 5e-2. Detections: the same boxes to 0.01 pixel,
the same scores to 1e-4, the same labels.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cvpods.data.detection_utils import read_image
from cvpods.structures import ImageList
from cvpods_ext.deploy.detector import GraphDetector, load_graph
from cvpods_ext.deploy.graphs import NetworkGraph
from cvpods_ext.deploy.sessions import open_session
from cvpods_ext.deploy.verify import TOLERANCES, difference
from tests.cvpods_ext.deploy.small import (
    EXPERIMENTS,
    as_inputs,
    noise_image,
    small_config,
    small_detector,
    two_levels,
)

SHARED = Path(os.environ.get("CVPODS_SHARED", Path(__file__).parents[4] / "shared"))
SIZES = [(128, 160), (192, 96)]
pytestmark = pytest.mark.slow  # exports every method twice


@pytest.fixture(params=list(EXPERIMENTS))
def method(request):
    return request.param


@pytest.fixture
def network(method, exported):
    return exported(method)


@pytest.fixture
def detector(method, exported):
    """Return a detector's graph of any batch and size, most on two levels to be faster.

    FeatureAlign's has one size, to be faster still.
    """
    size = ["--size", "128x160"] if method == "feature_align" else []
    return exported(method, "--with-postprocess", *size, *map(str, two_levels(method)))


def feeds_of(graph, batch, size):
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
    feeds = {"input": noise, "image_sizes": torch.tensor([[size[0] - 8, size[1]]] * batch)}
    return {name: feeds[name] for name in graph.input_names}


def test_only_standard_operators(network, detector):
    """Graphs have only operators of ONNX itself, and neither branch nor loop."""
    onnx = pytest.importorskip("onnx")
    for path in (network, detector):
        model = onnx.load(path)
        assert {node.domain for node in model.graph.node} == {""} and not model.functions
        assert not {"If", "Loop", "Scan"} & {node.op_type for node in model.graph.node}


def assert_outputs(path, method, tolerance):
    graph, session = NetworkGraph(small_detector(method)).eval(), open_session(path)
    gaps = []
    for batch in (1, 4):
        for size in SIZES:
            feeds = feeds_of(graph, batch, size)
            with torch.inference_mode():
                wanted = graph(**feeds)
            found = session(feeds)
            assert list(found) == graph.output_names
            for name, value in zip(graph.output_names, wanted, strict=True):
                assert value.abs().max() > 1e-4  # there is something to compare
                gaps.append(difference(found[name], value))
    assert max(gaps) <= tolerance
    return max(gaps)


def test_network_outputs(network, method):
    assert_outputs(network, method, 1e-4)


def assert_same_detections(found, wanted):
    """Check that both have the same detections; those of nearly equal scores may change places."""
    assert len(found) == len(wanted) and found.image_size == wanted.image_size
    units = torch.tensor([0.01] * 4 + [1e-4, 0.5])  # pixels, score, label
    rows = [
        torch.cat([d.pred_boxes.tensor, d.scores[:, None], d.pred_classes[:, None]], dim=1) / units
        for d in (found, wanted)
    ]
    distance, partner = torch.cdist(*rows, p=torch.inf).min(dim=1)
    assert distance.max() < 1 and len(partner.unique()) == len(wanted)
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-4, rtol=0)


def assert_detects_as_pytorch(path, method, batches, opts=()):
    model = small_detector(method, opts)
    graph, _ = load_graph(*small_config(method, opts), path)
    total = 0
    for inputs in batches:
        with torch.inference_mode():
            wanted, found = model(inputs), graph(inputs)
        for one, other in zip(found, wanted, strict=True):
            assert_same_detections(one["instances"], other["instances"])
            total += len(other["instances"])
    assert total >= 50 * sum(map(len, batches))
    return graph


BATCHES = [
    as_inputs([noise_image(128, 160)]),
    # Other sizes, and padding in three of the four.
    as_inputs([noise_image(*size, seed=i) for i, size in enumerate([(96, 160), (120, 96)] * 2)]),
]


def test_detections_of_the_network(network, method):
    graph = assert_detects_as_pytorch(network, method, BATCHES)
    assert type(graph).__name__ == type(small_detector(method)).__name__


def test_detections_of_the_detector(detector, method):
    graph = assert_detects_as_pytorch(detector, method, BATCHES, two_levels(method))
    assert isinstance(graph, GraphDetector)


@pytest.mark.coco
def test_detections_in_a_real_image(network, detector, method):
    path = min((SHARED / "data/coco/val2017").glob("*.jpg"))
    image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    image = torch.nn.functional.interpolate(image[None].float(), (120, 160))[0].byte()
    for graph, opts in ((network, ()), (detector, two_levels(method))):
        assert_detects_as_pytorch(graph, method, [as_inputs([image])], opts)


def test_rows_without_a_detection(detector, method):
    """A threshold that nothing passes is not the graph's; but images smaller than the input leave
    most of it out, and NMS leaves fewer than 100 boxes of an image of one cell.
    """
    session = open_session(detector)
    feeds = {"input": torch.zeros(2, 3, 128, 160), "image_sizes": torch.tensor([[96, 96], [1, 1]])}
    found = session(feeds)
    assert found["boxes"].shape == (2, 100, 4)
    assert found["scores"].shape == found["labels"].shape == (2, 100)
    empty = found["labels"] < 0
    assert (found["labels"][empty] == -1).all()
    assert (found["scores"][empty] == 0).all() and (found["boxes"][empty] == 0).all()
    assert (found["scores"][~empty] > 0).all()
    assert (found["scores"].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("method", ["free_anchor", "feature_align"], indirect=True)
def test_fp16(method, exported):
    """Close to FP32, and not FP32 itself; convolutions are FP16, norms are not."""
    onnx = pytest.importorskip("onnx")
    path = exported(method, "--half")
    worst = assert_outputs(path, method, TOLERANCES[True])
    assert worst > 1e-5
    model = onnx.load(path)
    types = {w.name: w.data_type for w in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    half = [node for node in convs if types.get(node.input[1]) == onnx.TensorProto.FLOAT16]
    offsets = 10 if method == "feature_align" else 0  # of two towers on levels P3 - P7
    assert len(convs) - len(half) <= offsets and len(half) > 20
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        if "Normalization" in node.op_type:
            assert kinds[node.output[0]] == onnx.TensorProto.FLOAT
    float32 = onnx.TensorProto.FLOAT
    for value in (model.graph.input[0], *model.graph.output):
        assert value.type.tensor_type.elem_type == float32


def test_images_of_a_batch_do_not_depend_on_each_other(network, method):
    """Each image gets the maps that it gets alone; only padding to a common size may matter."""
    graph, _ = load_graph(*small_config(method), network)
    images = [noise_image(96, 128, seed) for seed in range(3)]
    stacked = torch.stack([graph.normalize(image) for image in images])
    with torch.inference_mode():
        together = graph.network(ImageList(stacked, [(96, 128)] * 3))
        for i in range(3):
            alone = graph.network(ImageList(stacked[i : i + 1], [(96, 128)]))
            for name in alone:
                for one, all_of in zip(alone[name], together[name], strict=True):
                    assert difference(all_of[i : i + 1], one) < 1e-5
