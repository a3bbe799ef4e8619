"""Instances: fields of equal length of one image."""

import copy
import pickle

import pytest
import torch

from cvpods.structures import Boxes, Instances


def make_instances(length=3, size=(10, 20)):
    """A field of every kind: tensor, Boxes, list."""
    return Instances(
        size,
        scores=torch.arange(length) / 10,
        boxes=Boxes(torch.arange(4.0 * length).view(length, 4)),
        names=[f"n{i}" for i in range(length)],
    )


def test_fields_are_attributes():
    instances = make_instances()
    instances.classes = torch.tensor([1, 2, 3])
    assert instances.classes is instances.get("classes")
    assert list(instances.get_fields()) == ["scores", "boxes", "names", "classes"]
    assert instances.has("boxes") and not instances.has("masks")
    instances.remove("boxes")
    assert not instances.has("boxes") and len(instances) == 3


def test_field_can_be_replaced():
    instances = make_instances()
    instances.scores = torch.ones(3)
    instances.set("names", ["a", "b", "c"])
    assert instances.scores.tolist() == [1, 1, 1] and instances.names == ["a", "b", "c"]


def test_missing_field():
    with pytest.raises(AttributeError, match="'masks'"):
        make_instances().masks  # noqa: B018
    with pytest.raises(KeyError, match="masks"):
        make_instances().get("masks")
    assert not hasattr(make_instances(), "_masks")


def test_length_is_checked():
    instances = make_instances()
    with pytest.raises(AssertionError, match="'classes' of length 2 .* length 3"):
        instances.classes = [1, 2]
    with pytest.raises(AssertionError, match="length 1"):
        Instances((4, 4), a=[1], b=[1, 2])
    assert not instances.has("classes")


def test_image_size_is_read_only():
    instances = make_instances()
    with pytest.raises(AttributeError, match="read-only"):
        instances.image_size = (1, 1)
    assert instances.image_size == (10, 20)


def test_no_fields():
    assert len(Instances((4, 4))) == 0 and Instances((4, 4)).get_fields() == {}


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (2, [2]),
        (-1, [2]),
        (-3, [0]),
        (slice(1), [0]),
        (slice(None, None, 2), [0, 2]),
        (slice(3, None), []),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([False] * 3), []),
        (torch.tensor([2, 0, 0]), [2, 0, 0]),
    ],
)
def test_indexing(index, rows):
    instances = make_instances()
    picked = instances[index]
    assert picked.image_size == (10, 20) and len(picked) == len(rows)
    assert torch.equal(picked.scores, instances.scores[rows])
    assert torch.equal(picked.boxes.tensor, instances.boxes.tensor[rows])
    assert picked.names == [f"n{row}" for row in rows]
    assert len(instances) == 3


@pytest.mark.parametrize("index", [3, -4])
def test_index_error(index):
    with pytest.raises(IndexError, match=rf"{index} out of range for length 3"):
        make_instances()[index]


def test_index_error_of_nothing():
    with pytest.raises(IndexError):
        make_instances(0)[0]


def test_iteration_ends():
    assert [one.names for one in make_instances()] == [["n0"], ["n1"], ["n2"]]


def test_cat():
    joined = Instances.cat([make_instances(2), make_instances(0), make_instances(1)])
    assert joined.image_size == (10, 20) and len(joined) == 3
    assert torch.equal(joined.scores, torch.tensor([0, 0.1, 0]))
    assert isinstance(joined.boxes, Boxes) and joined.boxes.tensor[2].tolist() == [0, 1, 2, 3]
    assert joined.names == ["n0", "n1", "n0"]


def test_cat_of_one_is_that_one():
    instances = make_instances()
    assert Instances.cat([instances]) is instances


def test_cat_needs_one_image_size():
    with pytest.raises(ValueError, match=r"\(5, 5\), \(10, 20\)"):
        Instances.cat([make_instances(), make_instances(size=(5, 5))])


def test_cat_of_a_field_that_cannot_be():
    with pytest.raises(ValueError, match="'words' must be .*; got str"):
        Instances.cat([Instances((4, 4), words="ab"), Instances((4, 4), words="cd")])


def test_to_moves_what_can_be_moved():
    moved = make_instances().to("meta")
    assert moved.scores.device.type == moved.boxes.device.type == "meta"
    assert moved.names == ["n0", "n1", "n2"] and moved.image_size == (10, 20)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))])
def test_copies_are_independent(duplicate):
    instances = make_instances()
    other = duplicate(instances)
    other.scores[0] = 9
    other.remove("names")
    assert instances.scores[0] == 0 and instances.has("names")
    assert other.image_size == (10, 20) and len(other) == 3


def test_repr_says_how_many():
    text = repr(make_instances(2))
    assert text.startswith("Instances(num_instances=2, image_height=10, image_width=20, fields=")
