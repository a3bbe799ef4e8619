"""Cutting tables into slices of bounded size."""

import pytest
import torch

from cvpods.structures.slices import slices

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("length", "width", "expected"),
    [
        (5, 50, [(0, 2), (2, 4), (4, 5)]),
        (4, 50, [(0, 2), (2, 4)]),
        (3, 1000, [(0, 1), (1, 2), (2, 3)]),
        (100, 1, [(0, 100)]),
        (101, 1, [(0, 100), (100, 101)]),
        (7, 0, [(0, 7)]),
        (0, 50, []),
    ],
)
def test_slices_of_at_most_a_hundred_elements(length, width, expected):
    """Rows of 50 elements go by twos; rows wider than the bound go alone; rows of none at once."""
    assert [(s.start, s.stop) for s in slices(length, width, CPU, elements=100)] == expected


def test_slices_of_at_least_so_many_rows():
    assert [(s.start, s.stop) for s in slices(5, 50, CPU, 3, elements=100)] == [(0, 3), (3, 5)]
    assert [(s.start, s.stop) for s in slices(5, 25, CPU, 3, elements=100)] == [(0, 4), (4, 5)]
