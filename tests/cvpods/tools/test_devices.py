"""--num-gpus, --num-processes and MODEL.DEVICE, where no GPU is."""

import pytest
import torch

from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser
from cvpods.tools.train import main as pods_train
from cvpods.utils.env import select_device
from cvpods.utils.errors import ConfigError
from cvpods_ext import console


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


WITHOUT_GPUS = {"pods_convert"}
FIRST_WORDS = {
    "pods_debug": ["replay", "x.pt"],
    "pods_demo": ["--input", "x.jpg"],
    "pods_export": ["--output", "x.onnx"],
    "pods_infer": ["--model", "x.onnx"],
    "pods_vis": ["alignment", "--input", "x.jpg"],
}


@pytest.mark.parametrize("command", sorted(set(console.__all__) - WITHOUT_GPUS))
def test_every_command_refuses_gpus_that_are_not_there(command, experiment, capsys):
    words = FIRST_WORDS.get(command, [])
    with pytest.raises(SystemExit) as ended:
        getattr(console, command)([*words, "--dir", str(experiment), "--num-gpus", "1"])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert "argument --num-gpus: 1 needs a CUDA GPU" in printed
    assert "--num-gpus 0 or leave it out" in printed


@pytest.mark.parametrize(
    "words, device",
    [
        ([], "cuda"),
        (["--num-gpus", "0"], "cpu"),
        (["--num-processes", "2"], "cpu"),
        (["--num-processes", "2", "--num-gpus", "0"], "cpu"),
    ],
)
def test_what_the_flags_choose(experiment, words, device):
    """Without flags, the config's "cuda" stays until select_device() falls back."""
    args = make_parser("").parse_args(["--dir", str(experiment), *words])
    assert load_config(args)[0].MODEL.DEVICE == device


def test_a_config_for_the_cpu_contradicts_gpus(experiment, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit):
        pods_train(["--dir", str(experiment), "--num-gpus", "2", "MODEL.DEVICE", "cpu"])
    assert "MODEL.DEVICE is 'cpu', and --num-gpus 2 asks for GPUs" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["cuda", "cuda:7"])
def test_a_config_for_a_gpu_falls_back(wanted):
    assert select_device(wanted) == "cpu"


@pytest.mark.parametrize("wanted", ["GPU:0", "", "meta", "xla", "vulkan", "cpu:x"])
def test_devices_that_cannot_be_used(wanted):
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE '{wanted}' cannot be used: .*Use 'cuda'"):
        select_device(wanted)


@pytest.mark.parametrize("words", [["MODEL.DEVICE", "cuda"], ["MODEL.DEVICE", "cuda:1"]])
def test_a_gpu_that_is_typed_must_be_there(experiment, words, monkeypatch):
    args = make_parser("").parse_args(["--dir", str(experiment), *words])
    with pytest.raises(ConfigError, match=rf"{' '.join(words)} needs a CUDA GPU.*leave it out"):
        load_config(args)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load_config(args)[0].MODEL.DEVICE == words[1]
