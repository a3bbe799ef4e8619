"""Networks of the timm package as backbones, and their weights: timm://NAME."""

import pytest
import torch
from torch import nn

from cvpods.checkpoint import Checkpointer, load_file, load_weights
from cvpods.layers import ShapeSpec
from cvpods.modeling.backbone import TimmBackbone, build_resnet_backbone, build_timm_fpn_p3_p7
from cvpods.utils import timm as timm_module
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods.utils.torch_private import batch_norm_class
from cvpods_ext.configs.fragments import RES18
from cvpods_ext.configs.frameworks import pretrained
from cvpods_ext.methods.atss import ATSS, ATSSConfig

timm = pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")

# A network with batch norms, one without, one whose maps are (N, H, W, C).
NAMES = ["resnet18", "convnext_atto", "swinv2_cr_tiny_224"]
FEATURES = ["res3", "res4", "res5"]


@pytest.mark.parametrize("name", NAMES)
def test_maps(name):
    """Channels and strides of the maps are those of output_shape()."""
    backbone = TimmBackbone(name=name, out_features=FEATURES, arguments=arguments_of(name))
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(2, 3, 64, 96))
    assert list(maps) == FEATURES
    for feature, shape in backbone.output_shape().items():
        size = (64 // shape.stride, 96 // shape.stride)
        assert maps[feature].shape == (2, shape.channels, *size)
    assert [shape.stride for shape in backbone.output_shape().values()] == [8, 16, 32]


def arguments_of(name):
    return {"img_size": (64, 96), "window_size": 2} if "swin" in name else {}


def test_frozen_norms():
    """FrozenBN: statistics and affine maps stay; BN: both move."""
    for norm, moves in (("FrozenBN", False), ("BN", True)):
        backbone = TimmBackbone(name="resnet18", out_features=FEATURES, norm=norm).train()
        norms = [m for m in backbone.modules() if isinstance(m, batch_norm_class())]
        before = [m.running_mean.clone() for m in norms]
        backbone(torch.rand(2, 3, 64, 64))
        assert all(p.requires_grad is moves for m in norms for p in m.parameters())
        changed = [not torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True)]
        assert len(norms) == 20 and set(changed) == {moves}


@pytest.mark.parametrize(
    "freeze_at, frozen", [(0, set()), (1, {"conv1"}), (2, {"conv1", "layer1"})]
)
def test_frozen_stages(freeze_at, frozen):
    arguments = {"name": "resnet18", "out_features": FEATURES, "norm": "BN"}
    backbone = TimmBackbone(**arguments, freeze_at=freeze_at)
    parts = {n.split(".")[0] for n, p in backbone.body.named_parameters() if not p.requires_grad}
    assert parts - {"bn1"} == frozen


@pytest.mark.parametrize(
    "values, message",
    [
        ({"name": "resnet_eighteen"}, "is not a network of timm"),
        ({"name": "vit_tiny_patch16_224"}, "maps of the strides"),
        ({"out_features": []}, "maps of the strides"),
        ({"out_features": ["res6"]}, "maps of the strides"),
        ({"norm": "GN"}, "'BN' or 'FrozenBN'"),
        ({"name": "swinv2_cr_tiny_224", "freeze_at": 9}, "not have a part to freeze"),
    ],
)
def test_errors(values, message):
    with pytest.raises(ConfigError, match=message):
        TimmBackbone(**{"name": "resnet18", "out_features": FEATURES, **values})


def test_without_the_package(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(timm_module.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'cvpods-ext\[timm\]'"):
        TimmBackbone(name="resnet18", out_features=FEATURES)


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """$CVPODS_WEIGHTS with a whole network's weights, the classifier's too."""
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path))
    (tmp_path / "timm").mkdir()
    torch.manual_seed(0)
    weights = timm.create_model("resnet18").state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    safetensors.save_file(weights, tmp_path / "timm" / "resnet18.a1_in1k.safetensors")
    torch.save(weights, tmp_path / "timm" / "resnet18.tv_in1k.pth")
    return weights


def small_config():
    config = ATSSConfig()
    keys = {
        "MODEL.TIMM.NAME": "resnet18",
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.ATSS.NUM_CONVS": 1,
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        **{key: value for key, value in RES18.items() if key != "MODEL.WEIGHTS"},
    }
    config.override(keys)
    return config


@pytest.mark.parametrize("tag", ["a1_in1k", "tv_in1k"])
def test_weights_into_a_detector(folder, tag):
    """Under timm's names, without the classifier; all of the backbone is in the file."""
    config = small_config()
    model = ATSS.from_config(config, build_timm_fpn_p3_p7(config))
    content = Checkpointer(model).load(f"timm://resnet18.{tag}", config=config)
    assert content["expects"]["MODEL.PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
    assert content["expects"]["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    body = model.backbone.bottom_up.body.state_dict()
    assert "fc.weight" not in body and set(body) == set(folder) - {"fc.weight", "fc.bias"}
    assert all(torch.equal(body[name], folder[name]) for name in body)


def test_weights_into_our_resnet(folder):
    """timm's ResNets have torchvision's names, and so fit ours."""
    config = small_config()
    backbone = build_resnet_backbone(config, ShapeSpec(channels=3))
    report = load_weights(backbone, load_file("timm://resnet18.a1_in1k")["model"], strict=True)
    assert report.missing == report.unused == []
    assert torch.equal(backbone.res4[1].conv2.weight, folder["layer3.1.conv2.weight"])


def test_the_fragment(folder):
    """Without a download: colours, and of a ResNet its shape."""
    keys = pretrained("timm://resnet18.a1_in1k")
    assert keys["MODEL.WEIGHTS"] == "timm://resnet18.a1_in1k"
    config = small_config()
    config.override({**keys, "MODEL.RESNETS.DEPTH": 18})
    Checkpointer(ATSS.from_config(config, build_timm_fpn_p3_p7(config))).load(
        config.MODEL.WEIGHTS, config=config
    )


@pytest.mark.parametrize(
    "missing", [("layer3",), ("layer1", "layer2", "layer3", "layer4", "conv1")]
)
def test_files_of_other_networks(folder, tmp_path, missing):
    """A file must hold every tensor of the network; timm alone would accept a part."""
    weights = {name: value for name, value in folder.items() if not name.startswith(missing)}
    safetensors.save_file(weights, tmp_path / "timm" / "resnet18.a1_in1k.safetensors")
    with pytest.raises(CheckpointError, match="timm cannot load it"):
        load_file("timm://resnet18.a1_in1k")


def test_another_input_is_refused(folder):
    config = small_config()
    config.INPUT.FORMAT = "BGR"
    model = ATSS.from_config(config, build_timm_fpn_p3_p7(config))
    with pytest.raises(ConfigError, match="INPUT.FORMAT is 'BGR'; they expect 'RGB'"):
        Checkpointer(model).load("timm://resnet18.a1_in1k", config=config)


@pytest.mark.parametrize("name", ["nonesuch", "resnet18.nonesuch", ""])
def test_weights_that_timm_does_not_have(name):
    with pytest.raises(CheckpointError, match="timm has no such weights"):
        load_file(f"timm://{name}")


def test_a_damaged_file(folder, tmp_path):
    (tmp_path / "timm" / "resnet18.a1_in1k.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="safetensors .* cannot be read"):
        load_file("timm://resnet18.a1_in1k")


def test_modules_stay_trainable():
    """Only parts of the backbone are frozen; a step trains the rest."""
    config = small_config()
    model = ATSS.from_config(config, build_timm_fpn_p3_p7(config)).train()
    assert isinstance(model.backbone.bottom_up, nn.Module)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("backbone.bottom_up.body.") for name in frozen)
