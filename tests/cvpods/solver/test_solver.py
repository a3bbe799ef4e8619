"""Parameter groups, optimisers, learning-rate schedules and gradient clipping."""

import math

import pytest
import torch
from loguru import logger
from torch import nn

from cvpods.configs import BaseConfig
from cvpods.solver import (
    OPTIMIZER_BUILDER,
    SCHEDULER_BUILDER,
    OptimizerState,
    WarmupCosineLR,
    WarmupMultiStepLR,
    build_lr_scheduler,
    build_optimizer,
    clip_gradients,
    parameter_groups,
)
from cvpods.utils.errors import ConfigError, PodsError


@pytest.fixture
def log():
    """Return the warnings logged during the test."""
    lines = []
    sink = logger.add(lines.append, format="{message}", level="WARNING")
    yield lines
    logger.remove(sink)


# -- parameter groups ------------------------------------------------------------------------------


def net(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), nn.Conv2d(4, 2, 1, bias=False))


def settings(model, **kwargs):
    """Return {name of a parameter: (lr, weight decay)}."""
    kwargs = {"base_lr": 0.1, "weight_decay": 0.01, "weight_decay_norm": 0.002, **kwargs}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, **kwargs)
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_norm_layers_have_their_own_decay():
    assert settings(net()) == {
        "0.weight": (0.1, 0.01),
        "0.bias": (0.1, 0.01),
        "1.weight": (0.1, 0.002),
        "1.bias": (0.1, 0.002),
        "2.weight": (0.1, 0.01),
    }


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d,
        nn.SyncBatchNorm,
        lambda n: nn.GroupNorm(2, n),
        lambda n: nn.LayerNorm(n),
        lambda n: nn.InstanceNorm2d(n, affine=True),
    ],
)
def test_every_kind_of_norm_layer(norm):
    result = settings(net(norm), weight_decay_norm=0.0)
    assert result["1.weight"] == result["1.bias"] == (0.1, 0.0)


@pytest.mark.parametrize(
    "decay, conv, norm", [(None, 0.01, 0.002), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)]
)
def test_biases(decay, conv, norm):
    """Twice the learning rate. A decay of None keeps the layer's decay; 0 replaces it."""
    result = settings(net(), bias_lr_factor=2.0, weight_decay_bias=decay)
    assert result["0.bias"] == (0.2, conv)
    assert result["1.bias"] == (0.2, norm)
    assert result["0.weight"] == (0.1, 0.01)
    assert result["1.weight"] == (0.1, 0.002)


def test_shared_parameters_come_once():
    """A head used for two levels: its parameters are in one group, and only once."""
    conv = nn.Conv2d(2, 2, 1)
    model = nn.ModuleList([conv, nn.ReLU(), conv])
    model.tied = nn.Conv2d(2, 2, 1)
    model.tied.weight = conv.weight
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0, weight_decay_norm=0)
    parameters = [p for group in groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == 3


def test_parameters_outside_of_layers():
    """AutoAssign's mu and sigma belong to the detector itself."""
    model = net()
    model.mu = nn.Parameter(torch.zeros(3, 2))
    assert settings(model)["mu"] == (0.1, 0.01)


def test_frozen_parameters_are_left_out():
    model = net()
    model[0].requires_grad_(False)
    assert set(settings(model)) == {"1.weight", "1.bias", "2.weight"}


def test_nothing_to_train():
    with pytest.raises(ConfigError, match="no parameter that trains"):
        settings(net().requires_grad_(False))


def test_few_groups():
    """Parameters with equal options share a group, so that the optimiser updates them together."""
    model = nn.Sequential(*(net() for _ in range(5)))
    kwargs = {"base_lr": 0.1, "weight_decay": 0.01, "weight_decay_norm": 0.0}
    assert len(parameter_groups(model, **kwargs)) == 2
    assert len(parameter_groups(model, **kwargs, bias_lr_factor=2.0)) == 4


# -- optimisers ------------------------------------------------------------------------------------


def config(name="D2SGD", **optimizer):
    cfg = BaseConfig()
    cfg.SOLVER.OPTIMIZER.NAME = name
    cfg.SOLVER.OPTIMIZER.BASE_LR = 0.1
    cfg.SOLVER.OPTIMIZER.update(optimizer)
    return cfg


@pytest.mark.parametrize(
    "name, cls",
    [("D2SGD", torch.optim.SGD), ("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)],
)
def test_optimisers_by_name(name, cls):
    cfg = config(name, WEIGHT_DECAY=0.03, WEIGHT_DECAY_NORM=0.5, BIAS_LR_FACTOR=2.0)
    model = net()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, cls) and type(optimizer).__name__ == cls.__name__
    found = {(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups}
    assert found == {(0.1, 0.03, 2), (0.2, 0.03, 1), (0.1, 0.5, 1), (0.2, 0.5, 1)}


def test_every_optimiser_trains():
    for name, _ in OPTIMIZER_BUILDER:
        model = nn.Linear(2, 1)
        before = model.weight.detach().clone()
        model(torch.ones(1, 2)).sum().backward()
        build_optimizer(config(name), model).step()
        assert not torch.equal(model.weight, before), name


def test_sgd_by_hand():
    """Momentum 0.5, lr 0.1, decay 0, gradient 1: steps of 0.1 x 1, then 0.1 x (0.5 + 1).

    1 -> 0.9 -> 0.75
    """
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = build_optimizer(config(MOMENTUM=0.5, WEIGHT_DECAY=0.0), model)
    for expected in (0.9, 0.75):
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected)


def test_decay_of_biases_comes_from_the_config():
    groups = build_optimizer(config(WEIGHT_DECAY_BIAS=0.25), nn.Linear(1, 1)).param_groups
    assert sorted(g["weight_decay"] for g in groups) == [1e-4, 0.25]


def test_configs_without_a_decay_of_biases():
    """Old experiments do not have the key."""
    cfg = config()
    del cfg.SOLVER.OPTIMIZER["WEIGHT_DECAY_BIAS"]
    (group,) = build_optimizer(cfg, nn.Linear(1, 1)).param_groups
    assert group["weight_decay"] == 1e-4


@pytest.mark.parametrize("name, near", [("D2SGDD", "D2SGD"), ("adamw", "AdamW")])
def test_unknown_optimiser(name, near):
    with pytest.raises(PodsError) as raised:
        build_optimizer(config(name), net())
    for part in ("SOLVER.OPTIMIZER.NAME", repr(name), near):
        assert part in str(raised.value)


# -- schedules -------------------------------------------------------------------------------------


def schedule(base_lr=1.0, name="WarmupMultiStepLR", **keys):
    """Return a scheduler for one weight."""
    cfg = config(BASE_LR=base_lr)
    cfg.SOLVER.LR_SCHEDULER.update({"NAME": name, "WARMUP_ITERS": 0, "STEPS": (), **keys})
    optimizer = build_optimizer(cfg, nn.Linear(1, 1, bias=False))
    return build_lr_scheduler(cfg, optimizer)


def rates(scheduler, count):
    """Return the learning rates of iterations 0, 1, ..., with one step after each."""
    result = []
    for _ in range(count):
        result.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return result


@pytest.mark.parametrize(
    "method, expected",
    [
        ("constant", [0.2, 0.2, 0.2, 0.2, 1, 1]),
        ("linear", [0.2, 0.4, 0.6, 0.8, 1, 1]),
        ("burnin", [0, 1 / 256, 16 / 256, 81 / 256, 1, 1]),
    ],
)
def test_warmup(method, expected):
    """Factor 0.2 over 4 iterations: constant; 0.2 (1 - t/4) + t/4; (t/4)^4 = t^4 / 256."""
    keys = {"WARMUP_METHOD": method, "WARMUP_FACTOR": 0.2, "WARMUP_ITERS": 4}
    assert rates(schedule(**keys), 6) == pytest.approx(expected)


def test_milestones():
    """x 0.1 at iteration 2 and again at 4, of 0.5."""
    expected = [0.5, 0.5, 0.05, 0.05, 0.005, 0.005]
    assert rates(schedule(0.5, STEPS=(2, 4), GAMMA=0.1), 6) == pytest.approx(expected)


def test_milestone_within_the_warmup():
    """Linear from 0 over 4: 0, 1/4, 2/4, 3/4, 1; halved from iteration 2 on."""
    keys = {"WARMUP_FACTOR": 0.0, "WARMUP_ITERS": 4, "STEPS": (2,), "GAMMA": 0.5}
    assert rates(schedule(**keys), 6) == pytest.approx([0, 0.25, 0.25, 0.375, 0.5, 0.5])


def test_published_schedule():
    """1x: 0.01, from 0.001 of it over 1000 iterations; a tenth from 60k, a hundredth from 80k."""
    keys = {"STEPS": (60000, 80000), "WARMUP_ITERS": 1000, "WARMUP_FACTOR": 0.001}
    scheduler = schedule(0.01, **keys)
    found = {}
    for iteration in (0, 500, 999, 1000, 59999, 60000, 79999, 80000, 89999):
        scheduler.last_epoch = iteration
        found[iteration] = scheduler.get_lr()[0]
    assert found == pytest.approx(
        {
            0: 1e-5,
            500: 0.01 * (0.0005 + 0.5),
            999: 0.01 * (0.001 * 0.001 + 0.999),
            1000: 0.01,
            59999: 0.01,
            60000: 0.001,
            79999: 0.001,
            80000: 0.0001,
            89999: 0.0001,
        }
    )


def test_cosine():
    """(1 + cos(pi t / 4)) / 2: 1, (1 + sqrt(1/2)) / 2, 1/2, (1 - sqrt(1/2)) / 2, then 0."""
    root = math.sqrt(0.5)
    expected = [1, (1 + root) / 2, 0.5, (1 - root) / 2, 0, 0]
    assert rates(schedule(name="WarmupCosineLR", MAX_ITER=4), 6) == pytest.approx(expected)


def test_cosine_with_warmup():
    """t = 1 of 4 in a warm-up of 2 from 0: half of (1 + sqrt(1/2)) / 2; t = 2: 1/2."""
    keys = {"MAX_ITER": 4, "WARMUP_ITERS": 2, "WARMUP_FACTOR": 0.0}
    expected = [0, (1 + math.sqrt(0.5)) / 4, 0.5]
    assert rates(schedule(name="WarmupCosineLR", **keys), 3) == pytest.approx(expected)


def test_groups_keep_their_ratio():
    """Biases at twice the rate stay at twice the rate."""
    cfg = config(BASE_LR=1.0, BIAS_LR_FACTOR=2.0)
    cfg.SOLVER.LR_SCHEDULER.update({"WARMUP_ITERS": 4, "WARMUP_FACTOR": 0.2, "STEPS": (5,)})
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(7):
        weight, bias = (group["lr"] for group in optimizer.param_groups)
        assert bias == pytest.approx(2 * weight)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"NAME": "WarmupMultiStep"}, ["SOLVER.LR_SCHEDULER.NAME", "WarmupMultiStepLR"]),
        ({"WARMUP_METHOD": "quadratic"}, ["WARMUP_METHOD", "'quadratic'", "'linear'"]),
        ({"WARMUP_METHOD": "lin", "WARMUP_ITERS": 0}, ["WARMUP_METHOD", "'lin'"]),
        ({"STEPS": (80, 60)}, ["SOLVER.LR_SCHEDULER.STEPS", "(80, 60)"]),
    ],
)
def test_schedules_that_cannot_be_built(keys, said):
    with pytest.raises(PodsError) as raised:
        schedule(**keys)
    for part in said:
        assert part in str(raised.value)


def test_steps_may_be_a_list():
    assert rates(schedule(STEPS=[1], GAMMA=0.1), 2) == pytest.approx([1, 0.1])


def test_own_builders():
    """Experiments can add builders to the tables."""
    OPTIMIZER_BUILDER.register(lambda model, cfg: "mine", name="mine")
    SCHEDULER_BUILDER.register(lambda cfg, optimizer: "mine", name="mine")
    try:
        assert build_optimizer(config("mine"), net()) == "mine"
        assert schedule_named("mine") == "mine"
    finally:
        del OPTIMIZER_BUILDER._objects["mine"], SCHEDULER_BUILDER._objects["mine"]


def schedule_named(name):
    return schedule(name=name)


# -- resuming --------------------------------------------------------------------------------------

FIRST = {"STEPS": (3, 6), "WARMUP_ITERS": 2, "WARMUP_FACTOR": 0.5, "GAMMA": 0.1, "MAX_ITER": 8}


def resumed(saved, scheduler):
    """Return `scheduler` after it has loaded the state of `saved`."""
    scheduler.optimizer.load_state_dict(saved.optimizer.state_dict())
    scheduler.load_state_dict(saved.state_dict())
    return scheduler


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
@pytest.mark.parametrize("stop", [1, 2, 4, 7])
def test_resuming_goes_on(name, stop, log):
    whole = rates(schedule(name=name, **FIRST), 9)
    first = schedule(name=name, **FIRST)
    rates(first, stop)
    second = resumed(first, schedule(name=name, **FIRST))
    assert rates(second, 9 - stop) == pytest.approx(whole[stop:])
    assert log == []


@pytest.mark.parametrize(
    "name, changed, said",
    [
        ("WarmupMultiStepLR", {"STEPS": (4, 6)}, ["milestones", "[3, 6]", "[4, 6]"]),
        ("WarmupMultiStepLR", {"GAMMA": 0.5}, ["gamma", "0.1", "0.5"]),
        ("WarmupMultiStepLR", {"WARMUP_ITERS": 5}, ["warmup_iters", "2", "5"]),
        ("WarmupMultiStepLR", {"WARMUP_FACTOR": 0.25}, ["warmup_factor", "0.5", "0.25"]),
        ("WarmupMultiStepLR", {"WARMUP_METHOD": "burnin"}, ["warmup_method", "linear", "burnin"]),
        ("WarmupMultiStepLR", {"base_lr": 3.0}, ["base_lrs", "1.0", "3.0"]),
        ("WarmupCosineLR", {"MAX_ITER": 16}, ["max_iters", "8", "16"]),
    ],
)
def test_resuming_obeys_the_config_and_says_so(name, changed, said, log):
    """From iteration 1 on, the rates are those of a run that had the new schedule throughout."""
    new = {**FIRST, **changed}
    whole = rates(schedule(name=name, **new), 8)
    first = schedule(name=name, **FIRST)
    rates(first, 1)
    second = resumed(first, schedule(name=name, **new))
    assert rates(second, 7) == whole[1:]
    assert len(log) == 1
    assert all(part in log[0] for part in said)


def test_a_cosine_run_that_is_made_longer():
    """8 of 8 iterations are done, then MAX_ITER is 16: (1 + cos(pi / 2)) / 2 at 8, not 0."""
    keys = {"MAX_ITER": 8, "WARMUP_ITERS": 0}
    first = schedule(name="WarmupCosineLR", **keys)
    rates(first, 8)
    assert first.optimizer.param_groups[0]["lr"] == 0
    second = resumed(first, schedule(name="WarmupCosineLR", **{**keys, "MAX_ITER": 16}))
    assert rates(second, 1) == pytest.approx([0.5])


def test_resuming_under_another_name_says_so(log):
    """Both depend only on the iteration: the new one continues, without milestones."""
    first = schedule(name="WarmupMultiStepLR", **FIRST)
    rates(first, 4)
    second = resumed(first, schedule(name="WarmupCosineLR", **FIRST))
    assert rates(second, 4) == rates(schedule(name="WarmupCosineLR", **FIRST), 8)[4:]
    assert any("milestones" in line and "not used" in line for line in log)


def optimizer_of(model, **keys):
    return build_optimizer(config(**keys), model)


def test_momentum_follows_its_parameter_into_another_group():
    """A separate decay moves the biases from the only group into another.

    Each parameter keeps its momentum; decay and momentum are the new config's.
    """
    model = net()
    first = optimizer_of(model, WEIGHT_DECAY=0.0, WEIGHT_DECAY_NORM=0.0)
    sum(((i + 1) * p).sum() for i, p in enumerate(model.parameters())).backward()
    first.step()
    wanted = {n: first.state[p]["momentum_buffer"] for n, p in model.named_parameters()}
    assert len({float(buffer.flatten()[0]) for buffer in wanted.values()}) == len(wanted)
    saved = OptimizerState(first).state_dict()
    changed = {"WEIGHT_DECAY": 0.5, "WEIGHT_DECAY_BIAS": 0.25, "MOMENTUM": 0.7}
    second = optimizer_of(model, **changed)
    assert len(second.param_groups) > len(first.param_groups) == 1
    OptimizerState(second).load_state_dict(saved)
    for name, parameter in model.named_parameters():
        assert torch.equal(second.state[parameter]["momentum_buffer"], wanted[name]), name
    assert {g["weight_decay"] for g in second.param_groups} == {0.5, 0.25, 0.0}
    assert {g["momentum"] for g in second.param_groups} == {0.7}


def test_decay_and_momentum_are_those_of_the_config():
    model = net()
    saved = OptimizerState(optimizer_of(model, WEIGHT_DECAY=0.1)).state_dict()
    for group in saved["param_groups"]:
        del group["names"]  # a checkpoint of an earlier version
    second = optimizer_of(model, WEIGHT_DECAY=0.2, MOMENTUM=0.3)
    OptimizerState(second).load_state_dict(saved)
    assert {g["weight_decay"] for g in second.param_groups} == {0.2, 0.0}
    assert {g["momentum"] for g in second.param_groups} == {0.3}


@pytest.mark.parametrize("with_kind", [True, False])
def test_another_kind_of_optimiser_is_refused(with_kind):
    saved = OptimizerState(build_optimizer(config("AdamW"), net())).state_dict()
    if not with_kind:  # a checkpoint of an earlier version
        del saved["kind"]
    with pytest.raises(PodsError, match="another SOLVER.OPTIMIZER.NAME.*start a new run"):
        OptimizerState(optimizer_of(net())).load_state_dict(saved)


def test_state_of_a_schedule_is_plain(tmp_path):
    """The state must load without running code."""
    for cls in (WarmupMultiStepLR, WarmupCosineLR):
        torch.save(schedule(name=cls.__name__, **FIRST).state_dict(), tmp_path / "state.pth")
        assert torch.load(tmp_path / "state.pth", weights_only=True)["warmup_iters"] == 2


# -- clipping --------------------------------------------------------------------------------------


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros(len(g) if g else 1)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient) if gradient else None
    return parameters


@pytest.mark.parametrize(
    "clip_type, value, norm_type, expected",
    [
        # Each element to -2 .. 2.
        ("value", 2.0, 2.0, [[2.0, -2.0], [0.0, 2.0]]),
        # Norms 5 and 12: x 2/5 and x 2/12.
        ("norm", 2.0, 2.0, [[1.2, -1.6], [0.0, 2.0]]),
        # L1 norms 7 and 12: x 3.5/7 and x 3.5/12.
        ("norm", 3.5, 1.0, [[1.5, -2.0], [0.0, 3.5]]),
        # Largest elements 4 and 12: x 3/4 and x 3/12.
        ("norm", 3.0, math.inf, [[2.25, -3.0], [0.0, 3.0]]),
        # The joint norm is sqrt(25 + 144) = 13: x 6.5/13.
        ("full_model", 6.5, 2.0, [[1.5, -2.0], [0.0, 6.0]]),
        # All norms are below the limit.
        ("value", 100.0, 2.0, [[3.0, -4.0], [0.0, 12.0]]),
        ("norm", 100.0, 2.0, [[3.0, -4.0], [0.0, 12.0]]),
        ("full_model", 100.0, 2.0, [[3.0, -4.0], [0.0, 12.0]]),
    ],
)
def test_clipping_by_hand(clip_type, value, norm_type, expected):
    """Gradients (3, -4) and (0, 12), and a parameter without one."""
    parameters = with_gradients([3.0, -4.0], [0.0, 12.0], None)
    clip_gradients(
        iter(parameters), clip_type=clip_type, clip_value=value, norm_type=norm_type
    )  # an iterator can be read once only
    for parameter, gradient in zip(parameters, expected, strict=False):
        torch.testing.assert_close(parameter.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-5)
    assert parameters[2].grad is None


@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
def test_clipping_without_gradients(clip_type):
    parameters = with_gradients(None, None)
    clip_gradients(parameters, clip_type=clip_type, clip_value=1.0, norm_type=2.0)
    assert all(parameter.grad is None for parameter in parameters)


def test_unknown_clipping():
    with pytest.raises(ConfigError, match=r"CLIP_TYPE must be.*'full_model'; got 'sum'"):
        clip_gradients([], clip_type="sum", clip_value=1.0, norm_type=2.0)
