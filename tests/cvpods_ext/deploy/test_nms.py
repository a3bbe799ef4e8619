"""nms_keep: by hand, beside cvpods' NMS, and as the ONNX operator that it becomes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cvpods.layers import batched_nms
from cvpods_ext.deploy.nms import NO_CANDIDATE, nms_keep, onnx_translation


class Nms(nn.Module):
    """nms_keep at IoU 0.5 with 3 classes, at most 200 boxes of each."""

    def forward(self, boxes, scores, labels):
        return nms_keep(boxes, scores, labels, 0.5, 3, 200)


@pytest.fixture(scope="module")
def onnx_nms(tmp_path_factory):
    """Return nms_keep as a function that onnxruntime runs, for any batch and number of boxes."""
    ort = pytest.importorskip("onnxruntime")
    n, c = torch.export.Dim("n"), torch.export.Dim("c")
    example = torch.rand(2, 7, 4), torch.rand(2, 7), torch.zeros(2, 7, dtype=torch.int64)
    axes = {0: n, 1: c}
    program = torch.export.export(
        Nms(), example, dynamic_shapes={"boxes": axes, "scores": axes, "labels": axes}
    )
    exported = torch.onnx.export(
        program,
        verbose=False,
        opset_version=18,
        input_names=["boxes", "scores", "labels"],
        custom_translation_table=onnx_translation(),
    )
    session = ort.InferenceSession(exported.model_proto.SerializeToString())

    def run(boxes, scores, labels):
        feeds = {"boxes": boxes.numpy(), "scores": scores.numpy(), "labels": labels.numpy()}
        return torch.from_numpy(session.run(None, feeds)[0])

    return run


def test_by_hand(onnx_nms):
    """Two images of four candidates, boxes 10 wide and high.

    Image 0: A (0.9, class 0) at x 0; B (0.8, class 0) at x 2, IoU 80 / 120 = 0.67 with A: dropped;
    C (0.7, class 1) at x 0: another class, kept; D (0.6, class 0) at x 5, IoU with A 50 / 150:
    kept although its IoU with B is 70 / 130 = 0.54, as B is gone.
    Image 1: the same boxes, but A and C are not candidates: B is kept and D dropped.
    """
    x = torch.tensor([0.0, 2.0, 0.0, 5.0])
    one = torch.stack([x, torch.zeros(4), x + 10, torch.full((4,), 10.0)], dim=1)
    boxes = torch.stack([one, one])
    none = NO_CANDIDATE
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [none, 0.8, none, 0.6]])
    labels = torch.tensor([[0, 0, 1, 0]] * 2)
    expected = [[True, False, True, True], [False, True, False, False]]
    assert Nms()(boxes, scores, labels).tolist() == expected
    assert onnx_nms(boxes, scores, labels).tolist() == expected


def candidates(images, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, count, 2, generator=generator) * 60 - 10
    sizes = torch.rand(images, count, 2, generator=generator) * 40
    scores = torch.rand(images, count, generator=generator)
    scores[torch.rand(images, count, generator=generator) < 0.2] = NO_CANDIDATE
    labels = torch.randint(0, 3, (images, count), generator=generator)
    return torch.cat([corners, corners + sizes], dim=-1), scores, labels


@pytest.mark.parametrize("images, count", [(1, 1), (1, 200), (4, 120), (3, 7)])
def test_beside_the_nms_of_one_image(onnx_nms, images, count):
    boxes, scores, labels = candidates(images, count)
    keep = Nms()(boxes, scores, labels)
    assert torch.equal(onnx_nms(boxes, scores, labels), keep)
    for i in range(images):
        real = (scores[i] > NO_CANDIDATE).nonzero().flatten()
        wanted = real[batched_nms(boxes[i, real], scores[i, real], labels[i, real], 0.5)]
        assert keep[i].nonzero().flatten().tolist() == sorted(wanted.tolist())


def test_nothing_to_keep(onnx_nms):
    boxes, scores, labels = candidates(2, 9)
    scores = torch.full_like(scores, NO_CANDIDATE)
    assert not Nms()(boxes, scores, labels).any()
    assert not onnx_nms(boxes, scores, labels).any()


def test_zero_area_and_zero_score(onnx_nms):
    """Boxes without area overlap nothing; a score of 0 is a score."""
    boxes = torch.tensor([[[5.0, 5.0, 5.0, 5.0]] * 3 + [[0.0, 0.0, 9.0, 9.0]]])
    scores, labels = torch.tensor([[0.5, 0.4, 0.0, 0.0]]), torch.zeros(1, 4, dtype=torch.int64)
    assert Nms()(boxes, scores, labels).all()
    assert onnx_nms(boxes, scores, labels).all()


def test_equal_scores_keep_the_first(onnx_nms):
    boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0]] * 4])
    scores, labels = torch.full((1, 4), 0.5), torch.tensor([[1, 1, 2, 1]])
    expected = [[True, False, True, False]]
    assert Nms()(boxes, scores, labels).tolist() == expected
    assert onnx_nms(boxes, scores, labels).tolist() == expected
