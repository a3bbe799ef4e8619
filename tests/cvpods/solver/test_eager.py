"""Optimizers without the compiler's bookkeeping: torch's, bit for bit."""

import subprocess
import sys

import pytest
import torch

from cvpods.solver import eager

_RUN = """
import sys, torch
from cvpods.solver import eager
weight = torch.nn.Parameter(torch.ones(3))
optimizer = getattr(eager, sys.argv[1])([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def train(kind, **options):
    """Return weights, gradient and state after three steps; a group is added after the first."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(4)) for _ in range(2)]
    optimizer = kind(weights[:1], lr=0.1, weight_decay=0.1, **options)
    losses = []
    for step in range(3):
        loss = sum((weight**3).sum() for weight in weights)
        optimizer.zero_grad()
        loss.backward()
        losses.append(optimizer.step(lambda: torch.tensor(2.0)))
        if step == 0:
            optimizer.add_param_group({"params": weights[1:], "lr": 0.01})
    assert losses == [2.0] * 3
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    return weights, optimizer.state_dict()["state"]


@pytest.mark.parametrize(
    "name, options", [("SGD", {"momentum": 0.9}), ("AdamW", {}), ("AdamW", {"fused": True})]
)
def test_steps_are_torch_s(name, options):
    weights, state = train(getattr(eager, name), **options)
    expected, expected_state = train(getattr(torch.optim, name), **options)
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one.grad, other.grad)
    assert state.keys() == expected_state.keys()
    for key, values in state.items():
        for entry, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected_state[key][entry]))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_compiler_is_not_imported(name):
    words = [sys.executable, "-c", _RUN, name]
    assert subprocess.run(words, capture_output=True, text=True).stdout == "False\n"
