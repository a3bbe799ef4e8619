"""pods_vis alignment: the objects and weights that it shows, and its errors in one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cvpods.tools.experiment import open_experiment
from cvpods.tools.predictor import Predictor
from cvpods_ext.analysis import alignment_figure
from cvpods_ext.analysis.alignment import alignment_maps
from cvpods_ext.configs import fragments
from cvpods_ext.methods.auto_assign import AutoAssign
from cvpods_ext.methods.feature_align import FeatureAlign
from cvpods_ext.tools.vis import main

ROOT = Path(__file__).resolve().parents[3]
MAPS = ["classification", "regression"]
BOTH = [*MAPS, "auto_assign", "feature_align"]

NAMES = ["disc", "square", "triangle", "star", "ring", "cross"]
# first.png: 96 x 128 pixels, (x, y, width, height), category; empty.png has none.
FIRST = [([10, 20, 40, 30], 7), ([60, 5, 30, 60], 2), ([0, 50, 25, 46], 13)]
OVERRIDES = {
    **fragments.test_scale(64, 96),
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
}
KINDS = {"assign.tiny": AutoAssign, "align.tiny": FeatureAlign}
ATTENTION = {"NUM_LAYERS": 1, "NUM_HEADS": 2, "FEEDFORWARD_DIM": 16}


def noise(height, width, seed):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def write_shapes(root):
    """Write a data root with "shapes": first.png and empty.png to test, other.png to train."""
    folder = root / "shapes"
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": n} for i, n in zip((2, 3, 5, 7, 11, 13), NAMES, strict=True)]
    for split, names in (("val", ["first", "empty"]), ("train", ["other"])):
        (folder / split).mkdir()
        images = []
        for i, name in enumerate(names):
            noise(96, 128, i).save(folder / split / f"{name}.png")
            images.append({"id": i, "file_name": f"{name}.png", "height": 96, "width": 128})
        annotations = [
            {"id": i, "image_id": 0, "bbox": bbox, "category_id": c, "area": 1.0, "iscrowd": 0}
            for i, (bbox, c) in enumerate(FIRST)
        ]
        content = {"images": images, "categories": categories, "annotations": annotations}
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))


def make_experiment(root, name, source, overrides):
    """Copy an experiment of the shapes with overrides, and write weights whose scores spread."""
    folder = root / name
    folder.mkdir()
    config, net = ((ROOT / "playground" / source / f).read_text() for f in ("config.py", "net.py"))
    (folder / "config.py").write_text(f"{config}\nconfig.override({overrides!r})\n")
    (folder / "net.py").write_text(net)
    cfg, build_model = open_experiment(folder)
    torch.manual_seed(0)
    model = build_model(cfg)
    nn.init.zeros_(model.head.cls_score.bias)
    nn.init.normal_(model.head.cls_score.weight, std=0.1)
    (folder / "output").mkdir()
    torch.save({"model": model.state_dict()}, folder / "output" / "model_final.pth")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Make data/shapes and an experiment of each method. No test writes into it."""
    root = tmp_path_factory.mktemp("vis")
    write_shapes(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVPODS_DATASETS", str(root / "data"))
        make_experiment(root, "assign.tiny", "auto_assign.res18.shapes", OVERRIDES)
        narrow = {f"MODEL.FEATURE_ALIGN.ATTENTION.{k}": v for k, v in ATTENTION.items()}
        make_experiment(root, "align.tiny", "feature_align.res18.shapes", OVERRIDES | narrow)
        make_experiment(root, "atss.tiny", "atss.res18.shapes", OVERRIDES)
    return root


@pytest.fixture
def image(root):
    return root / "data/shapes/val/first.png"


class Shown:
    """Recorder of the arguments of draw_alignment and alignment_maps; it writes a blank picture."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.saved = []
        monkeypatch.setattr(alignment_figure, "draw_alignment", self.draw)
        monkeypatch.setattr(alignment_figure, "alignment_maps", self.maps)

    def maps(self, model, images, boxes, classes):
        training = any(module.training for module in model.modules())
        self.calls.append((model, training, images, boxes, classes))
        return alignment_maps(model, images, boxes, classes)

    def draw(self, image, objects, blocks):
        self.image, self.objects, self.blocks = image, objects, blocks
        return self

    def savefig(self, path, **options):
        self.saved.append(Path(path))
        Image.new("RGB", (4, 4)).save(path)


@pytest.fixture
def shown(monkeypatch, root, tmp_path):
    """Enter an own folder and make the data known; record what would be drawn."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    return Shown(monkeypatch)


def words(root, image, *more, of="assign.tiny"):
    """Return the command's words; pictures go into the current folder."""
    given = ["alignment", "--dir", root / of, "--input", image]
    if "--output" not in more and "OUTPUT_DIR" not in more:
        given += ["--output", "out.png"]
    return [str(word) for word in (*given, *more)]


def fails(capsys, argv, status=1):
    """Run the command, which must fail; return its message (the last line of a usage error)."""
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == status
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "| INFO" not in line and line.strip()]
    assert out == "" and "Traceback" not in err
    if status != 1:
        return lines[-1]
    assert lines[0].startswith("error: ") and err.count("error: ") == 1, err
    return "\n".join(lines)


def test_as_typed(root, tmp_path, run_command):
    """Inside an experiment's folder, it writes two rows of five panels to OUTPUT_DIR."""
    folder = tmp_path / "mine.tiny"
    shutil.copytree(root / "assign.tiny", folder)
    image = root / "data/shapes/val/first.png"
    options = ["--weights", "output/model_final.pth", "--count", "2", "--score", "0.05"]
    command = ["pods_vis", "alignment", "--input", image, *options]
    result = run_command(command, folder, CVPODS_DATASETS=str(root / "data"))
    path = folder / "output" / "alignment.png"
    assert f"2 objects of {image}. Wrote {path}" in result.stderr
    assert "Warning" not in result.stderr and result.stdout == ""
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        assert opened.size == (2.4 * 5 * 110, round((2.3 * 2 + 0.5) * 110))
        pixels = np.array(opened.convert("RGB")).astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2) > 60).mean() > 0.02
    assert sorted(p.name for p in (folder / "output").iterdir()) == [
        "alignment.png",
        "model_final.pth",
    ]


def test_both_methods_in_one_picture(root, image, monkeypatch, tmp_path):
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    options = ["--beside", root / "align.tiny", "--truth", "--count", "1", "--output", "new/x.png"]
    monkeypatch.chdir(tmp_path)
    main(words(root, image, *options))
    with Image.open(tmp_path / "new/x.png") as opened:
        assert opened.size == (round(2.4 * 7 * 110), round((2.3 + 0.5) * 110))


# -- which objects ---------------------------------------------------------------------------------


def test_detected_objects(root, image, shown):
    """Show Predictor's best detections with class and score."""
    main(words(root, image, "--score", "0", "--count", "3"))
    found = Predictor.from_experiment(root / "assign.tiny")(image)[:3]
    torch.testing.assert_close(shown.objects.boxes, found.pred_boxes.tensor)
    assert shown.objects.classes.tolist() == found.pred_classes.tolist()
    scores = zip(found.pred_classes.tolist(), found.scores.tolist(), strict=True)
    assert shown.objects.labels == [f"{NAMES[c]} {s:.2f}" for c, s in scores]
    assert (shown.image == np.array(Image.open(image).convert("RGB"))).all()
    assert shown.saved == [Path("out.png")]


def test_score(root, image, shown):
    """Scores equal to --score are shown; without --count, four objects are."""
    found = Predictor.from_experiment(root / "assign.tiny")(image)
    scores = found.scores.double().tolist()
    assert len(scores) > 4 and scores[2] < scores[1]
    main(words(root, image, "--score", repr(scores[1])))
    assert len(shown.objects.boxes) == 2
    main(words(root, image, "--score", "0"))
    assert len(shown.objects.boxes) == 4


def test_annotated_objects(root, image, shown):
    """--truth shows boxes in the order of the file, with the names of the data set."""
    main(words(root, image, "--truth"))
    expected = [[10, 20, 50, 50], [60, 5, 90, 65], [0, 50, 25, 96]]
    assert shown.objects.boxes.tolist() == expected
    assert shown.objects.labels == ["star", "disc", "cross"]
    assert shown.objects.classes.tolist() == [3, 0, 5]
    main(words(root, image, "--truth", "--count", "1"))
    assert shown.objects.boxes.tolist() == expected[:1]


def test_annotated_image_by_another_path(root, shown, monkeypatch, tmp_path):
    monkeypatch.chdir(root / "data")
    path = "shapes/train/../val/first.png"
    main(words(root, path, "--truth", "--output", tmp_path / "out.png"))
    assert shown.objects.labels == ["star", "disc", "cross"]


def test_data_set_of_the_overrides(root, shown):
    other = root / "data/shapes/train/other.png"
    main(words(root, other, "--truth", "DATASETS.TEST", "('shapes_train',)"))
    assert shown.objects.labels == ["star", "disc", "cross"]


# -- whose maps ------------------------------------------------------------------------------------


def test_objects_in_pixels_of_the_input(root, image, shown):
    """96 x 128 pixels become 64 x 85: boxes are scaled by 85 / 128 and 64 / 96."""
    main(words(root, image, "--truth"))
    ((model, _, images, boxes, classes),) = shown.calls
    scale = torch.tensor([85 / 128, 64 / 96] * 2)
    torch.testing.assert_close(boxes, shown.objects.boxes * scale)
    assert classes.tolist() == [3, 0, 5]
    assert images.image_sizes == [(64, 85)]
    assert {heat.shape for heat in shown.blocks[0].maps[0][1:]} == {(64, 85)}
    predictor = Predictor.from_experiment(root / "assign.tiny")
    expected = predictor.model.preprocess_image([predictor.prepare(image)])
    assert torch.equal(images.tensor, expected.tensor)


@pytest.mark.parametrize(
    ("of", "kind"), [("assign.tiny", AutoAssign), ("align.tiny", FeatureAlign)]
)
def test_one_experiment_shows_both_weights(root, image, shown, of, kind):
    main(words(root, image, "--truth", of=of))
    (block,) = shown.blocks
    assert (block.name, block.fields, len(block.maps)) == (of, BOTH, 3)
    assert type(shown.calls[0][0]) is kind
    for maps in block.maps:
        assert all(heat.max() > 0 for heat in maps[1:])


def test_inside_an_experiment(root, image, shown, monkeypatch, tmp_path):
    """Without --dir, the current folder's name is above its maps."""
    monkeypatch.chdir(root / "assign.tiny")
    out = str(tmp_path / "out.png")
    main(["alignment", "--input", str(image), "--truth", "--count", "1", "--output", out])
    assert [block.name for block in shown.blocks] == ["assign.tiny"]


@pytest.mark.parametrize("of", KINDS)
def test_model_is_in_evaluation(root, image, shown, of):
    """Without batch statistics and dropout, the picture is the same every time."""
    main(words(root, image, "--truth", of=of))
    ((_, training, *_),) = shown.calls
    assert not training
    cfg, build_model = open_experiment(root / of)
    model = build_model(cfg).eval()
    weights = torch.load(root / of / "output/model_final.pth", weights_only=True)
    model.load_state_dict(weights["model"])
    for name, value in shown.calls[0][0].state_dict().items():
        assert torch.equal(value, weights["model"][name]), name
    expected = alignment_maps(model, *shown.calls[0][2:])
    for maps, wanted in zip(shown.blocks[0].maps, expected, strict=True):
        torch.testing.assert_close(torch.stack(maps[1:]), torch.stack(wanted[1:]))


@pytest.mark.parametrize("of", KINDS)
def test_beside(root, image, shown, of):
    """Two models each show their own weight; the first one detects the objects."""
    other = {"assign.tiny": "align.tiny", "align.tiny": "assign.tiny"}[of]
    own = {"assign.tiny": "auto_assign", "align.tiny": "feature_align"}
    main(words(root, image, "--truth", "--beside", root / other, of=of))
    named = [(block.name, block.fields) for block in shown.blocks]
    assert named == [(name, [*MAPS, own[name]]) for name in (of, other)]
    assert torch.equal(shown.calls[0][3], shown.calls[1][3])
    assert [type(call[0]) for call in shown.calls] == [KINDS[of], KINDS[other]]
    first, second = (torch.stack(block.maps[0][1:]) for block in shown.blocks)
    assert not torch.equal(first, second)


def other_weights(root, tmp_path, **values):
    """Write AutoAssign's weights with some tensors replaced."""
    content = torch.load(root / "assign.tiny/output/model_final.pth", weights_only=True)
    content["model"] |= values
    path = tmp_path / "other.pth"
    torch.save(content, path)
    return path


def test_weights_of_each(root, image, shown, tmp_path):
    """--weights and --beside-weights name weights; otherwise the newest checkpoint is taken."""
    path = other_weights(root, tmp_path, mu=torch.full((6, 2), 0.125))
    beside = ["--truth", "--beside", root / "assign.tiny"]
    for options, expected in [
        (["--weights", path], [0.125, 0]),
        (["--beside-weights", path], [0, 0.125]),
    ]:
        shown.calls.clear()
        main(words(root, image, *beside, *options))
        assert [call[0].mu[0, 0].item() for call in shown.calls] == expected


def test_overrides(root, image, shown, tmp_path):
    """KEY VALUE pairs may stand between flags; OUTPUT_DIR decides where the picture goes."""
    weights = other_weights(root, tmp_path, mu=torch.full((6, 2), 0.125))
    pairs = ["MODEL.AUTO_ASSIGN.REG_WEIGHT", "1.5", "OUTPUT_DIR", tmp_path / "runs"]
    main(words(root, image, *pairs, "--truth", "MODEL.WEIGHTS", weights))
    ((model, *_),) = shown.calls
    assert model.loss["reg_weight"] == 1.5 and model.mu[0, 0] == 0.125
    assert shown.saved == [tmp_path / "runs" / "alignment.png"]


def test_augmented_test(root, image, shown):
    """The maps come from the detector itself at one scale, not from its TEST.AUG wrapper."""
    main(words(root, image, "--truth", "TEST.AUG.ENABLED", "True"))
    assert type(shown.calls[0][0]) is AutoAssign


# -- errors ----------------------------------------------------------------------------------------


def test_missing_and_unreadable_images(root, shown, capsys, tmp_path):
    assert "nowhere.png does not exist" in fails(capsys, words(root, "nowhere.png"))
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png cannot be read" in fails(capsys, words(root, "text.png"))
    assert "cannot be read" in fails(capsys, words(root, tmp_path))
    assert shown.saved == []


def test_no_object_of_that_score(root, image, shown, capsys):
    line = fails(capsys, words(root, image, "--score", "0.99"))
    assert f"No object of score >= 0.99 in {image}: lower --score, or show" in line


def test_images_without_truth(root, image, shown, capsys, tmp_path):
    copy = shutil.copy(image, tmp_path / "first.png")
    line = fails(capsys, words(root, copy, "--truth"))
    assert f"--truth: {copy} is not an image of 'shapes_val'" in line
    empty = root / "data/shapes/val/empty.png"
    assert f"{empty} has no annotated object" in fails(capsys, words(root, empty, "--truth"))


def test_crowds_are_no_objects(root, image, shown, monkeypatch, tmp_path):
    """Crowds are left out, because no detector trains on them."""
    data = shutil.copytree(root / "data", tmp_path / "data")
    path = data / "shapes/annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    monkeypatch.setenv("CVPODS_DATASETS", str(data))
    main(words(root, data / "shapes/val/first.png", "--truth", "--count", "2"))
    assert shown.objects.labels == ["disc", "cross"]


@pytest.mark.parametrize("options", [["--truth"], ["--score", "0.99"]])
def test_other_detectors(root, image, shown, capsys, options):
    """Other detectors are refused before they detect: another score would not help."""
    line = fails(capsys, words(root, image, *options, of="atss.tiny"))
    assert "AutoAssign or FeatureAlign; this model is ATSS" in line


def test_other_detector_beside(root, image, shown, capsys):
    options = ["--truth", "--beside", root / "atss.tiny"]
    assert "this model is ATSS" in fails(capsys, words(root, image, *options))


def test_other_classes_beside(root, image, shown, capsys, tmp_path):
    """Compare the class names in the checkpoints."""
    path = tmp_path / "other.pth"
    content = torch.load(root / "align.tiny/output/model_final.pth", weights_only=True)
    torch.save({**content, "thing_classes": [*NAMES[:5], "heart"]}, path)
    beside = ["--truth", "--beside", root / "align.tiny", "--beside-weights", path]
    line = fails(capsys, words(root, image, *beside))
    assert "align.tiny has other classes than" in line and "'heart'" in line


def test_no_experiment_and_no_checkpoint(root, image, shown, capsys, tmp_path):
    assert "is not an experiment" in fails(capsys, ["alignment", "--input", str(image)])
    line = fails(capsys, words(root, image, "--beside", tmp_path, "--truth"))
    assert f"{tmp_path} is not an experiment" in line
    line = fails(capsys, words(root, image, "OUTPUT_DIR", tmp_path))
    assert f"{tmp_path} has no checkpoint" in line and "--weights x.pth" in line
    line = fails(capsys, words(root, image, "--truth", "--beside-weights", "x.pth"))
    assert "--beside-weights needs --beside" in line
    beside = shutil.copytree(root / "align.tiny", tmp_path / "beside")
    (beside / "output/model_final.pth").unlink()
    line = fails(capsys, words(root, image, "--truth", "--beside", beside))
    assert f"{beside}/output has no checkpoint" in line and "--beside-weights x.pth" in line
    assert "x.pth does not exist" in fails(capsys, words(root, image, "--weights", "x.pth"))


def test_weights_that_do_not_fit(root, image, shown, capsys):
    weights = root / "align.tiny/output/model_final.pth"
    assert "model_final.pth" in fails(capsys, words(root, image, "--weights", weights))


def test_wrong_key(root, image, shown, capsys):
    line = fails(capsys, words(root, image, "TEST.AUG.ENABLD", "False"))
    assert "Did you mean TEST.AUG.ENABLED?" in line


@pytest.mark.parametrize("options", [["0"], ["-1"], ["0", "--truth"], ["-1", "--truth"]])
def test_count_must_be_positive(root, image, shown, capsys, options):
    """--count below 1 is refused, with and without --truth."""
    line = fails(capsys, words(root, image, "--score", "0", "--count", *options))
    assert "--count" in line and options[0] in line


@pytest.mark.parametrize("score", ["nan", "-0.5", "1.5"])
def test_score_must_be_one(root, image, shown, capsys, score):
    """The message is that of pods_demo."""
    line = fails(capsys, words(root, image, "--score", score))
    assert "--score" in line and "0 ... 1" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "two"], "argument --count: invalid int value: 'two'"),
        (["--score", "half"], "argument --score: invalid float value: 'half'"),
        (["--num-gpus", "3"], "argument --num-gpus: "),
        (["--colour", "red"], "unrecognized arguments: --colour"),
    ],
)
def test_usage(root, image, shown, capsys, options, message):
    line = fails(capsys, words(root, image, *options), status=2)
    assert line.startswith(("pods_vis alignment: error: ", "error: argument --num-gpus: "))
    assert message in line


def test_input_is_needed(capsys):
    line = fails(capsys, ["alignment"], status=2)
    assert "the following arguments are required: --input" in line


@pytest.mark.parametrize("name", ["out.xyz", "file/out.png"])
def test_pictures_that_cannot_be_written(root, image, monkeypatch, capsys, tmp_path, name):
    """Neither an unknown kind of picture nor a path below a file can be written."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    (tmp_path / "file").write_text("")
    line = fails(capsys, words(root, image, "--truth", "--output", tmp_path / name))
    assert name in line


@pytest.mark.parametrize("name", ["folder", "folder.png"])
def test_picture_into_a_folder(root, image, monkeypatch, tmp_path, name):
    """If --output is an existing folder, the picture goes into it."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    (tmp_path / name).mkdir()
    main(words(root, image, "--truth", "--count", "1", "--output", tmp_path / name))
    assert [path.name for path in (tmp_path / name).iterdir()] == ["alignment.png"]


def test_picture_of_no_kind(root, image, monkeypatch, capsys, tmp_path):
    """Without a suffix, the name in the log is that of the written file."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    main(words(root, image, "--truth", "--count", "1", "--output", tmp_path / "picture"))
    said = capsys.readouterr().err.strip().rpartition("Wrote ")[2]
    assert [str(path) for path in tmp_path.iterdir()] == [said]


def test_classes_of_data_and_model_differ(root, image, shown, capsys, tmp_path):
    """With --truth, the data set's classes must be the model's."""
    content = torch.load(root / "assign.tiny/output/model_final.pth", weights_only=True)
    path = tmp_path / "other.pth"
    torch.save({**content, "thing_classes": [*NAMES[:5], "heart"]}, path)
    line = fails(capsys, words(root, image, "--truth", "--weights", path))
    assert "'heart'" in line and "'cross'" in line


@pytest.mark.parametrize("argv", [[], ["figure"], ["--input", "x.png"]])
def test_unknown_figure(capsys, argv):
    assert fails(capsys, argv, status=2).startswith("usage: pods_vis {alignment} ...")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, flag):
    """Help goes to stdout, as for every command."""
    for argv, start in (
        ([flag], "usage: pods_vis {alignment}"),
        (
            ["alignment", flag],
            "usage: pods_vis alignment [-h]",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(argv)
        assert not exit_.value.code
        out, err = capsys.readouterr()
        assert out.startswith(start) and err == ""
    assert "number of objects (4)" in out and "least score (0.3)" in out
