"""The BCCD set in the shape of each tool's export trains 20 iterations; AP is that of BCCD."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SHARED, command_environment
from tests.exports import EXPORTS
from tests.load_script import ROOT

BCCD = SHARED / "data" / "bccd"
WEIGHTS = SHARED / "data" / "weights" / "mobilenet_v2_imagenet_features_torchvision_names.pth"
_DIFFERENCE = """
import os
for split in ("train", "val"):
    register_coco_instances(f"export_{split}", os.path.join(os.environ["VARIANT"], f"{split}.json"),
                            os.path.join(os.environ["VARIANT"], split))
from cvpods_ext.configs.fragments import test_scale, train_scales
config.override({
    "DATASETS.TRAIN": ("export_train",), "DATASETS.TEST": ("export_val",), "SEED": 1,
    **train_scales([96], 128), **test_scale(96, 128), "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 0,
    "SOLVER.IMS_PER_BATCH": 4, "SOLVER.IMS_PER_DEVICE": 4, "SOLVER.CHECKPOINT_PERIOD": 0,
    "DATALOADER.NUM_WORKERS": 0, "TEST.EVAL_PERIOD": -1, "GLOBAL.LOG_INTERVAL": 20,
})
"""


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.is_dir() or not WEIGHTS.is_file(), reason=f"no BCCD in {BCCD}")
def test_every_export_of_bccd_gives_the_same_ap(tmp_path, shapes_root, capsys):
    (experiment := tmp_path / "atss.tiny").mkdir()
    source = ROOT / "playground/atss.mobilenetv2.bccd"
    (experiment / "config.py").write_text((source / "config.py").read_text() + _DIFFERENCE)
    (experiment / "net.py").write_text((source / "net.py").read_text())
    driver = Path(__file__).parent / "bccd_driver.py"
    words = [sys.executable, driver, experiment, BCCD.resolve(), tmp_path / "runs", WEIGHTS]
    env = {**command_environment(shapes_root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, words)), env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    base, *records = map(json.loads, done.stdout.splitlines())
    assert base["ap"] > 5 and [record["tool"] for record in records] == list(EXPORTS)
    for record in records:
        assert (record["train"], record["test"]) == (0, 0), record
        assert record["ap"] == pytest.approx(base["ap"], abs=1e-6), record
    with capsys.disabled():
        print(f"\nBCCD: AP {base['ap']:.2f} as it is and in {len(records)} exports")
