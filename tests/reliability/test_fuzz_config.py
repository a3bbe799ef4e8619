"""Random overrides: each is taken, or refused with a clear error before the first iteration.

CVPODS_FUZZ=full tries as many as docs/reliability.md reports; by default it is a sample.
"""

from __future__ import annotations

import copy
import os
import random
from collections import Counter

import pytest

from cvpods.configs.config_dict import flatten
from cvpods.configs.validation import check_training
from cvpods.engine import DefaultRunner
from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import PodsError

FULL = os.environ.get("CVPODS_FUZZ") == "full"
LISTS = 10_000 if FULL else 1_000
BUILT = 60 if FULL else 6

WORDS = [
    "True", "False", "None", "0", "1", "-1", "2", "3", "0.5", "1e-3", "-0.1", "nan", "inf", "1e400",
    "99999999999", "''", "x", "SGD", "AdamW", "GN", "BN", "()", "[]", "(1,)", "(1, 2)", "(3, 1)",
    "('shapes_val',)", "('a', 'b')", "[[1, 2]]", "[[0.5], [1.0]]", "{}", "{'A': 1}", "[None]",
    "((", "lambda: 0", "__import__('os')", "\0", "é", "float('inf')", "1_000", "0x10", "[1, 'a']",
    "WarmupCosineLR", "linear", "norm", "(\"RandomFlip\", {})", "[(\"RandomFlip\", {})]", "[1e309]",
]  # fmt: skip


def random_list(rng: random.Random, keys: list[str]) -> list[str]:
    words = []
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        key = rng.choice(keys)
        change = rng.random()
        if change < 0.15:
            position = rng.randrange(len(key))
            key = key[:position] + rng.choice("XQ._=") + key[position + 1 :]
        elif change < 0.2:
            key = key.rpartition(".")[0] or key
        words += [key, rng.choice(WORDS)]
    return words[:-1] if rng.random() < 0.03 else words


@pytest.mark.slow
def test_random_overrides(experiment, tmp_path, shapes_root, monkeypatch, capsys):
    """All go through the checks; a part of those that pass is built and trained for a step."""
    monkeypatch.setenv("CVPODS_DATASETS", str(shapes_root))
    rng = random.Random(2)
    config, build_model = load_experiment(experiment)
    config.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.LR_SCHEDULER.MAX_ITER", "1"])
    config.merge_from_list(["TEST.EVAL_PERIOD", "-1", "SOLVER.CHECKPOINT_PERIOD", "-1"])
    keys = [key for key, _ in flatten(config)]
    counts: Counter[str] = Counter()
    for index in range(LISTS):
        words = random_list(rng, keys)
        cfg = copy.deepcopy(config)
        try:
            cfg.merge_from_list(words)
            check_training(cfg)
        except PodsError as error:
            assert str(error)
            counts["refused"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"list {index}: {words}") from error
        counts["passed the checks"] += 1
        if counts["built"] < BUILT and rng.random() < 0.7 and "DEVICE" not in str(words):
            counts["built"] += 1
            cfg.OUTPUT_DIR = str(tmp_path / str(index))
            (tmp_path / str(index)).mkdir()
            try:
                runner = DefaultRunner(cfg, build_model)
                runner.resume_or_load(resume=False)
                runner.max_iter = 1
                if runner.plan.total <= 16:
                    runner.train()
                counts["trained"] += 1
            except (PodsError, FloatingPointError):
                counts["refused when built"] += 1
            except Exception as error:
                raise AssertionError(f"list {index}, built: {words}") from error
    assert counts["passed the checks"] > LISTS / 20 and counts["refused"] > LISTS / 20
    with capsys.disabled():
        print(f"\n{LISTS:,} override lists: {dict(counts)}")
