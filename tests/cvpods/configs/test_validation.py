"""The messages of configs/validation.py; the commands that they advise can be typed."""

from __future__ import annotations

import shlex

import pytest

from cvpods.configs import BaseConfig
from cvpods.configs.validation import check_config, check_training
from cvpods.utils.errors import ConfigError


@pytest.mark.parametrize("warmup, warns", [(9, False), (10, True), (1000, True)])
def test_a_warm_up_longer_than_the_training_is_named(log, warmup, warns):
    cfg = BaseConfig()
    schedule = "SOLVER.LR_SCHEDULER."
    cfg.merge_from_list(
        [schedule + "MAX_ITER", 10, schedule + "STEPS", (), schedule + "WARMUP_ITERS", warmup]
    )
    check_training(cfg)
    assert any("WARNING" in line and "never reaches BASE_LR" in line for line in log) == warns


@pytest.mark.parametrize("value", ["cells", "it's", 'a "b"', "$HOME"])
def test_the_advised_list_can_be_pasted_into_a_shell(value):
    """Everything behind "for example:" are the words of a command."""
    with pytest.raises(ConfigError) as raised:
        BaseConfig().merge_from_list(["DATASETS.TRAIN", value])
    words = shlex.split(str(raised.value).partition("for example: ")[2])
    cfg = BaseConfig()
    cfg.merge_from_list(words)
    assert tuple(cfg.DATASETS.TRAIN) == (value,)


@pytest.mark.parametrize("value", ["bright", "-1", "0"])
def test_white_level(value):
    cfg = BaseConfig()
    cfg.merge_from_list(["INPUT.WHITE_LEVEL", value])
    with pytest.raises(ConfigError, match="INPUT.WHITE_LEVEL must be 'auto' or a number above 0"):
        check_config(cfg)
