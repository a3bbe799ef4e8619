"""Candidates of a level in fixed shapes, and the network as a component of a detector."""

import copy

import pytest
import torch
from torch import nn

from cvpods.modeling.meta_arch.candidates import NO_CANDIDATE, best_entries
from cvpods.modeling.meta_arch.dense_detector import DenseDetector
from cvpods.modeling.meta_arch.network import BackboneAndHead
from cvpods.modeling.meta_arch.scores import Scores, combine_scores
from cvpods.structures import ImageList
from tests.cvpods.modeling.test_dense_detectors import backbone

LEVELS = ["p3", "p4", "p5", "p6", "p7"]


@pytest.fixture(params=["few", "all"], autouse=True)
def ranked(request, monkeypatch):
    """Rank the entries that passed, as on a CPU, or all of them, as on a GPU and in a graph."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param == "all")
    return request.param


def same(scores):
    return Scores(scores, scores, scores)


def test_hand_case():
    """Two locations and two classes; above .2: the entries 3 and 0 of the first image, 1 of the
    second.
    """
    scores = torch.tensor([[[0.5, 0.1], [0.2, 0.9]], [[0.0, 0.3], [0.1, 0.1]]])
    indices, final = best_entries(same(scores), 0.2, 3)
    expected = torch.tensor([[0.9, 0.5], [0.3, NO_CANDIDATE]])
    torch.testing.assert_close(final[:, :2], expected)
    assert (final[:, 2:] == NO_CANDIDATE).all()
    assert indices[0, :2].tolist() == [3, 0] and indices[1, 0] == 1
    assert ((indices >= 0) & (indices < 4)).all()


def test_three_scores():
    """Entry 0 fails the threshold; entry 1 ranks first, although its final score is lower."""
    scores = Scores(
        threshold=torch.tensor([[[0.1], [0.4], [0.6]]]),
        ranking=torch.tensor([[[0.9], [0.8], [0.7]]]),
        final=torch.tensor([[[0.9], [0.2], [0.3]]]),
    )
    indices, final = best_entries(scores, 0.3, 2)
    assert indices.tolist() == [[1, 2]]
    torch.testing.assert_close(final, torch.tensor([[0.2, 0.3]]))


@pytest.mark.parametrize("cap", [1, 7, 1000, None])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8, 1.0])
def test_matches_loop(cap, threshold):
    """Against sorting the entries of each image; random scores have no ties."""
    generator = torch.Generator().manual_seed(0)
    classes, quality = (torch.rand(3, 20, k, generator=generator) for k in (4, 1))
    scores = combine_scores("sqrt", classes, quality)
    indices, final = best_entries(scores, threshold, cap)
    assert indices.shape == final.shape and len(indices) == 3
    for i in range(3):
        ranking = scores.ranking[i].flatten().tolist()
        passed = (classes[i].flatten() > threshold).nonzero().flatten().tolist()
        expected = sorted(passed, key=lambda entry: -ranking[entry])[:cap]
        real = final[i] > NO_CANDIDATE
        assert indices[i, real].tolist() == expected
        torch.testing.assert_close(final[i, real], scores.final[i].flatten()[expected])
        assert not real[len(expected) :].any()


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 5, 3)])
def test_nothing_passes(shape):
    indices, final = best_entries(same(torch.zeros(shape)), 0.5, 4)
    assert indices.shape == final.shape and (final == NO_CANDIDATE).all()


def make_detector(head=None):
    torch.manual_seed(0)
    model = DenseDetector(
        backbone=backbone(),
        head=head or nn.Identity(),
        in_features=LEVELS,
        num_classes=2,
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
    )
    return model.eval()


def test_network_adds_no_prefix():
    """State-dict keys begin with backbone and head; the component holds the same modules."""
    model = make_detector(nn.Linear(2, 2))
    assert {key.partition(".")[0] for key in model.state_dict()} == {"backbone", "head"}
    assert model.network.backbone is model.backbone and model.network.head is model.head
    assert model.network.size_divisibility == model.backbone.size_divisibility
    assert isinstance(model.network, BackboneAndHead)


def test_network_of_a_copy_is_its_own():
    model = make_detector()
    other = copy.deepcopy(model)
    assert other.network.backbone is other.backbone is not model.backbone
    images = ImageList(torch.rand(1, 3, 64, 64), [(64, 64)])
    with torch.no_grad():
        for parameter in other.backbone.parameters():
            parameter.zero_()
        assert all((level == 0).all() for level in other.network(images))
        assert any((level != 0).any() for level in model.network(images))


def test_network_follows_a_replaced_head():
    model = make_detector()
    model.head = nn.Identity()
    assert model.network.head is model.head


def test_another_network_takes_the_place():
    class Constant:
        size_divisibility = 7

        def __call__(self, images):
            return {"cls_logits": [], "box_deltas": []}

    model = make_detector()
    model.use_network(Constant())
    assert not model.state_dict() and not list(model.parameters())
    images = model.preprocess_image([{"image": torch.zeros(3, 10, 15)}])
    assert images.tensor.shape == (1, 3, 14, 21)
    assert model.network(images) == {"cls_logits": [], "box_deltas": []}
