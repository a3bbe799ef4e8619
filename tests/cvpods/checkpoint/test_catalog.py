"""The catalogue of published backbones, and every experiment's config against it."""

import pytest
import torch
import torchvision

from cvpods.checkpoint import Checkpointer
from cvpods.checkpoint.catalog import CATALOG, IMAGENET_RGB, find_published
from cvpods.checkpoint.expectations import check_expectations
from cvpods.checkpoint.files import write_weights
from cvpods.configs import RetinaNetConfig
from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods.tools.experiment import open_experiment
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods_ext.configs.frameworks import pretrained
from cvpods_ext.methods.atss import ATSS, ATSSConfig
from tests.load_script import ROOT

EXPERIMENTS = sorted(path.name for path in (ROOT / "playground").iterdir() if path.is_dir())
R50 = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


def config_of(**values):
    config = RetinaNetConfig()
    config.MODEL.RESNETS.DEPTH = 50
    config.override(values)
    return config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_fit_their_weights(name):
    config, _ = open_experiment(ROOT / "playground" / name)
    address = config.MODEL.WEIGHTS
    if "://" in address:
        expects = find_published(address).expects
        assert "INPUT.FORMAT" in expects and "MODEL.PIXEL_MEAN" in expects
        check_expectations(config, expects, address)


@pytest.mark.parametrize(
    "name, file, network",
    [
        ("resnet18", "resnet18-f37072fd.pth", (18, 1, 64)),
        ("resnet50", "resnet50-0676ba61.pth", (50, 1, 64)),
        ("resnet50?IMAGENET1K_V2", "resnet50-11ad3fa6.pth", (50, 1, 64)),
        ("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth", (101, 64, 4)),
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth", None),
    ],
)
def test_torchvision(name, file, network):
    """The first version of the weights or the named one, with its hash and network."""
    known = find_published(f"torchvision://{name}")
    assert known.url == f"https://download.pytorch.org/models/{file}"
    assert known.sha256 == file[-12:-4]
    assert known.expects["INPUT.FORMAT"] == "RGB"
    keys = [f"MODEL.RESNETS.{key}" for key in ("DEPTH", "NUM_GROUPS", "WIDTH_PER_GROUP")]
    assert tuple(known.expects.get(key) for key in keys) == (network or (None, None, None))
    assert known.expects.get("MODEL.RESNETS.STRIDE_IN_1X1") is (None if network is None else False)


@pytest.mark.parametrize("name", ["resnet51", "", "resnet50/1"])
def test_networks_that_torchvision_does_not_have(name):
    with pytest.raises(CheckpointError, match=f"torchvision://{name}: ") as raised:
        find_published(f"torchvision://{name}")
    listed = str(raised.value).partition("it has ")[2].removesuffix(" and others.").split(", ")
    assert {"resnet18", "resnet50", "resnet101", "resnext50_32x4d"} <= set(listed)
    for known in listed:
        assert find_published(f"torchvision://{known}").url


def test_weights_that_torchvision_does_not_have():
    with pytest.raises(CheckpointError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        find_published("torchvision://resnet50?IMAGENET1K_V3")


@pytest.mark.parametrize("address", CATALOG)
def test_entries(address):
    """An entry is the same by its URL, and torchvision has each equivalent."""
    known = find_published(address)
    assert (
        find_published(known.url) is known or CATALOG[address].url == find_published(known.url).url
    )
    assert len(known.expects) == 7 and "MODEL.RESNETS.STRIDE_IN_1X1" in known.expects
    if known.equivalent:
        assert find_published(f"torchvision://{known.equivalent}").url
        assert torchvision.models.get_model_builder(known.equivalent)


@pytest.mark.parametrize("address", [*CATALOG, "torchvision://resnet101", "torchvision://resnet18"])
def test_the_fragment_fits(address):
    """pretrained(address) gives a config that its weights accept."""
    config = config_of(**pretrained(address))
    assert config.MODEL.WEIGHTS == address
    check_expectations(config, find_published(address).expects, address)


@pytest.mark.parametrize(
    "key, value",
    [
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]),
        ("MODEL.PIXEL_STD", [57.375, 57.12, 58.395]),
        ("MODEL.RESNETS.STRIDE_IN_1X1", False),
        ("MODEL.RESNETS.DEPTH", 101),
        ("MODEL.RESNETS.NUM_GROUPS", 32),
    ],
)
def test_a_key_that_does_not_fit(key, value):
    """The error names the key, both values and the override that solves it."""
    expects = find_published(R50).expects
    with pytest.raises(ConfigError) as raised:
        check_expectations(config_of(**{key: value}), expects, "MODEL.WEIGHTS x")
    message = str(raised.value)
    assert f"{key} is {value!r}; they expect {expects[key]!r}" in message
    assert f'{key} "{expects[key]}"' in message and "CHECK_WEIGHTS" in message
    assert message.count(" is ") == 1


def test_the_override_mends_it():
    config = config_of()
    expects = {**IMAGENET_RGB, "MODEL.RESNETS.STRIDE_IN_1X1": False}
    with pytest.raises(ConfigError) as raised:
        check_expectations(config, expects, "x")
    words = str(raised.value).partition("override them: ")[2].partition(". To continue")[0]
    parts = words.split('"')
    config.merge_from_list([word.strip() for word in parts if word.strip()])
    check_expectations(config, expects, "x")


def test_rounded_means_are_the_same():
    """102.9801 and 103.53 are both ImageNet's blue; 100 is not."""
    expects = find_published(R50).expects
    near = {"MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]}
    check_expectations(config_of(**near), expects, "x")
    with pytest.raises(ConfigError):
        check_expectations(config_of(**{"MODEL.PIXEL_MEAN": [100.0, 116.0, 123.0]}), expects, "x")


def test_a_fraction_of_a_stride_is_not_the_same():
    """The tolerance applies only to the means."""
    with pytest.raises(ConfigError, match=r"ANCHOR_OFFSET is 0\.5; they expect 0\.0"):
        check_expectations(ATSSConfig(), {"MODEL.ATSS.ANCHOR_OFFSET": 0.0}, "x")


def test_keys_that_a_config_does_not_have():
    check_expectations(config_of(), {"MODEL.ATSS.SCORE_TYPE": "sqrt"}, "x")


def test_weights_of_another_method():
    """ "MODEL" names methods; the config must have one of them."""
    config = ATSSConfig()
    check_expectations(config, {"MODEL": ["FCOS", "ATSS"]}, "x")
    with pytest.raises(ConfigError, match="they are of RETINANET or FREE_ANCHOR, which"):
        check_expectations(config, {"MODEL": ["RETINANET", "FREE_ANCHOR"]}, "x")
    config.MODEL.CHECK_WEIGHTS = False
    check_expectations(config, {"MODEL": ["FCOS"]}, "x")


def test_torchvision_by_its_url():
    """The same as by its name: hash, colours, network."""
    url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert find_published(url) == find_published("torchvision://resnet50?IMAGENET1K_V2")
    assert find_published("https://download.pytorch.org/models/other.pth").expects == {}


def test_a_backbone_of_another_shape(tmp_path):
    """ResNet-18 into a ResNet-50 is an error, not a start from mostly random weights."""
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "x.pth")
    config = ATSSConfig()
    config.override({"MODEL.RESNETS.DEPTH": 50, "MODEL.FPN.OUT_CHANNELS": 32})
    model = ATSS.from_config(config, build_resnet_fpn_p3_p7(config))
    with pytest.raises(CheckpointError, match="another backbone than the config's"):
        Checkpointer(model).load(tmp_path / "x.pth")


def test_going_on_regardless():
    config = config_of(**{"INPUT.FORMAT": "RGB", "MODEL.CHECK_WEIGHTS": False})
    check_expectations(config, find_published(R50).expects, "x")


def test_provenance_is_compared_with_the_config(tmp_path):
    """Loading compares: a file that expects RGB, into a config with BGR."""
    config = ATSSConfig()
    config.override({"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64})
    config.override({"MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.FPN.OUT_CHANNELS": 32})
    model = ATSS.from_config(config, build_resnet_fpn_p3_p7(config))
    path = tmp_path / "x.safetensors"
    write_weights(path, model.state_dict(), {"expects": {"INPUT.FORMAT": "RGB"}})
    Checkpointer(model).load(path, strict=True)
    with pytest.raises(ConfigError, match="INPUT.FORMAT is 'BGR'; they expect 'RGB'"):
        Checkpointer(model).load(path, strict=True, config=config)
    config.INPUT.FORMAT = "RGB"
    assert Checkpointer(model).load(path, strict=True, config=config)["expects"]
