"""Checkpoints: written atomically, matched by name and shape, read without risk."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from torch import nn

from cvpods.checkpoint import (
    Checkpointer,
    DefaultCheckpointer,
    iteration_of,
    list_checkpoints,
    load_file,
    load_weights,
)
from cvpods.checkpoint.atomic import write_atomically
from cvpods.checkpoint.caffe2 import rename_caffe2
from cvpods.utils.errors import CheckpointError


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def model_of(**shapes):
    """Return a module with zero parameters at dotted names (written with __)."""
    root = nn.Module()
    for name, shape in shapes.items():
        node = root
        *parents, leaf = name.split("__")
        for part in parents:
            if not hasattr(node, part):
                node.add_module(part, nn.Module())
            node = getattr(node, part)
        node.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return root


def save(folder, content, name="x.pth", **kwargs):
    torch.save(content, folder / name, **kwargs)
    return folder / name


# -- saving and loading ----------------------------------------------------------------------------


def test_round_trip(tmp_path):
    Checkpointer(net(0), tmp_path).save("model_final")
    other = net(1)
    assert not same(net(0), other)
    Checkpointer(other, tmp_path).load(tmp_path / "model_final.pth", strict=True)
    assert same(net(0), other)


def test_entries_of_a_file(tmp_path):
    """cvpods' own: model, optimizer, scheduler, iteration."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    checkpointer = Checkpointer(model, tmp_path, optimizer=optimizer, scheduler=scheduler, ema=None)
    checkpointer.save("model_iter_0000005", iteration=4)
    content = torch.load(tmp_path / "model_iter_0000005.pth", weights_only=True)
    assert set(content) == {"model", "optimizer", "scheduler", "iteration"}
    assert set(content["model"]) == set(model.state_dict())
    assert content["iteration"] == 4


class Run:
    """A model, its optimiser with momentum and its schedule, and steps that depend on all three."""

    def __init__(self, folder, seed):
        self.model = net(seed)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.5)
        state = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        self.checkpointer = Checkpointer(self.model, folder, **state)

    def train(self, start, end):
        for iteration in range(start, end):
            image = torch.full((2, 1, 2, 2), 1.0)
            image[0] = iteration
            self.optimizer.zero_grad()
            self.model(image).square().mean().backward()
            self.optimizer.step()
            self.scheduler.step()
        return self


def test_resuming_is_the_same_as_not_having_stopped(tmp_path):
    whole = Run(tmp_path, seed=0).train(0, 7)
    Run(tmp_path, seed=0).train(0, 3).checkpointer.save("model_iter_0000003", iteration=2)
    resumed = Run(tmp_path, seed=1)
    content = resumed.checkpointer.resume()
    assert content["iteration"] == 2
    resumed.train(3, 7)
    assert same(whole.model, resumed.model)
    assert resumed.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_nothing_to_resume(tmp_path):
    run = Run(tmp_path, seed=0)
    assert not run.checkpointer.has_checkpoint()
    assert run.checkpointer.get_checkpoint_file() is None
    assert run.checkpointer.resume() is None
    assert same(run.model, net(0))


def test_resuming_without_an_entry_says_so(tmp_path, log):
    Checkpointer(net(0), tmp_path).save("model_final", iteration=9)
    assert Run(tmp_path, seed=1).checkpointer.resume()["iteration"] == 9
    warnings = [line for line in log if line.startswith("WARNING")]
    assert len(warnings) == 2
    assert any("no 'optimizer'" in line for line in warnings)
    assert any("no 'scheduler'" in line for line in warnings)


def test_resuming_another_model_is_refused(tmp_path):
    Checkpointer(net(0)[:2], tmp_path).save("model_final")
    with pytest.raises(CheckpointError, match=r"Cannot resume from .*model_final\.pth") as raised:
        Run(tmp_path, seed=1).checkpointer.resume()
    assert "2.weight" in str(raised.value)


def test_resuming_another_optimiser_is_refused(tmp_path):
    Run(tmp_path, seed=0).checkpointer.save("model_final")
    model = net(1)
    optimizer = torch.optim.SGD(list(model.parameters())[:2], lr=0.1)
    with pytest.raises(CheckpointError, match=r"model_final\.pth.*param"):
        Checkpointer(model, tmp_path, optimizer=optimizer).resume()


def test_last_checkpoint_names_the_newest(tmp_path):
    checkpointer = DefaultCheckpointer(net(), tmp_path / "new" / "folder")
    for name in ("model_iter_0000002", "model_iter_0000004"):
        checkpointer.save(name)
        assert (checkpointer.save_dir / "last_checkpoint").read_text() == f"{name}.pth"
        assert checkpointer.get_checkpoint_file() == checkpointer.save_dir / f"{name}.pth"
    assert checkpointer.has_checkpoint()


@pytest.mark.parametrize("text", ["model_iter_0000009.pth", "", "../elsewhere.pth"])
def test_last_checkpoint_that_names_nothing(tmp_path, text):
    """The run resumes from the newest readable checkpoint."""
    checkpointer = Checkpointer(net(), tmp_path)
    for done in (2, 4):
        checkpointer.save(f"model_iter_{done:07d}", iteration=done - 1)
    (tmp_path / "last_checkpoint").write_text(text)
    assert checkpointer.get_checkpoint_file() is None
    assert checkpointer.resume()["iteration"] == 3


@pytest.mark.parametrize("size", [0, 1, 100, 1000])
def test_resuming_from_the_newest_whole_checkpoint(tmp_path, size):
    """model_iter_4 is cut; model_final of the run before its extension is older than 2."""
    checkpointer = Checkpointer(net(), tmp_path)
    for name, done in (("model_final", 1), ("model_iter_0000002", 2), ("model_iter_0000004", 4)):
        checkpointer.save(name, iteration=done - 1)
    os.truncate(tmp_path / "model_iter_0000004.pth", size)
    assert checkpointer.resume()["iteration"] == 1
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.resume()["iteration"] == 1


def test_no_whole_checkpoint(tmp_path):
    checkpointer = Checkpointer(net(), tmp_path)
    assert checkpointer.resume() is None
    checkpointer.save("model_iter_0000002", iteration=1)
    os.truncate(tmp_path / "model_iter_0000002.pth", 50)
    with pytest.raises(CheckpointError, match="No checkpoint in .*model_iter_0000002.pth"):
        checkpointer.resume()
    (tmp_path / "model_iter_0000002.pth").unlink()
    assert checkpointer.resume() is None
    torch.save({"model": net().state_dict()}, tmp_path / "model_final.pth")  # downloaded, say
    assert checkpointer.resume() is None


@pytest.mark.parametrize(
    "damaged, said",
    [
        (None, "It holds more iterations than model_iter_0000002.pth, which last_checkpoint names"),
        (2, "model_iter_0000002.pth, which last_checkpoint names, cannot be read."),
        (0, "last_checkpoint does not name an existing file."),
    ],
)
def test_why_another_file_is_resumed(damaged, said, tmp_path, log):
    """Files of 2 and 4 iterations; last_checkpoint names the first, which may be damaged."""
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), tmp_path)
    for done in (2, 4):
        checkpointer.save(f"model_iter_{done:07d}", iteration=done - 1)
    (tmp_path / "last_checkpoint").write_text("gone" if damaged == 0 else "model_iter_0000002.pth")
    if damaged:
        path = tmp_path / "model_iter_0000002.pth"
        path.write_bytes(path.read_bytes()[:300])
    assert checkpointer.resume()["iteration"] == 3
    (line,) = [line for line in log if "Resuming" in line]
    assert f"model_iter_0000004.pth. {said}" in line
    assert ("more iterations" in line) is (damaged is None)


def test_the_newest_is_damaged(tmp_path, log):
    """last_checkpoint names it: the run resumes from the older file with fewer iterations."""
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), tmp_path)
    for done in (2, 4):
        checkpointer.save(f"model_iter_{done:07d}", iteration=done - 1)
    path = tmp_path / "model_iter_0000004.pth"
    path.write_bytes(path.read_bytes()[:300])
    assert checkpointer.resume()["iteration"] == 1
    (line,) = [line for line in log if "Resuming" in line]
    assert "model_iter_0000004.pth, which last_checkpoint names, cannot be read." in line
    assert "more iterations" not in line


def test_last_checkpoint_that_cannot_be_written(tmp_path, log):
    """The checkpoint exists, and the run resumes from it."""
    (tmp_path / "last_checkpoint").mkdir()
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), tmp_path)
    checkpointer.save("model_final", iteration=5)
    (line,) = [line for line in log if line.startswith("ERROR")]
    assert "last_checkpoint cannot be written" in line and "model_final.pth is intact" in line
    assert checkpointer.resume()["iteration"] == 5


def test_last_checkpoint_may_end_with_a_newline(tmp_path):
    checkpointer = Checkpointer(net(), tmp_path)
    checkpointer.save("model_final")
    (tmp_path / "last_checkpoint").write_text("model_final.pth\n")
    assert checkpointer.get_checkpoint_file() == tmp_path / "model_final.pth"


def test_only_one_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("cvpods.utils.comm.get_rank", lambda: 1)
    Checkpointer(net(), tmp_path).save("model_final")
    assert list(tmp_path.iterdir()) == []


def test_wrapped_models_are_saved_without_the_wrapper(tmp_path):
    wrapped = nn.DataParallel(net(0))
    Checkpointer(wrapped, tmp_path).save("model_final")
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert set(content["model"]) == set(net().state_dict())
    other = nn.DataParallel(net(1))
    Checkpointer(other, tmp_path).load(tmp_path / "model_final.pth", strict=True)
    assert same(wrapped, other)


# -- atomic writes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, error, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        file.write(b"half of the new")
        raise error("disk full")

    with pytest.raises(error):
        write_atomically(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_a_writer_that_succeeds_replaces(tmp_path):
    path = tmp_path / "file"
    for content in (b"first, longer", b"second"):
        write_atomically(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_save_that_fails_leaves_something_to_resume(tmp_path, monkeypatch):
    Run(tmp_path, seed=0).checkpointer.save("model_iter_0000002", iteration=1)

    def fail(content, file):
        file.write(b"PK half a file")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(CheckpointError, match="No space left.*--resume continues"):
            Run(tmp_path, seed=0).checkpointer.save("model_iter_0000004", iteration=3)
    assert Run(tmp_path, seed=1).checkpointer.resume()["iteration"] == 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model_iter_0000002.pth", "last_checkpoint"}


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, iteration",
    [
        ("model_iter_0010000.pth", 10000),
        ("model_0009999.pth", 10000),
        ("model_epoch_0012.pth", 12),
        ("model_final.pth", float("inf")),
        ("model_iter_5.pth", 5),
        ("model_final_pretrain_weight.pkl", None),
        ("model_best.pth", None),
        ("model_iter_.pth", None),
        ("model_iter_0001.pth.tmp", None),
        ("last_checkpoint", None),
    ],
)
def test_iteration_of_a_name(tmp_path, name, iteration):
    """Older files count from 0: 9999 stands for 10000 iterations."""
    assert iteration_of(tmp_path / name) == iteration


def test_checkpoints_come_by_iteration(tmp_path):
    """The order is neither alphabetical nor by time of writing."""
    ordered = [
        "model_iter_0000500.pth",
        "model_0000999.pth",
        "model_iter_0002000.pth",
        "model_iter_10000.pth",
        "model_iter_0200000.pth",
        "model_final.pth",
    ]
    for name in [*reversed(ordered), "model_best.pth", "other.pth", "last_checkpoint"]:
        (tmp_path / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ordered
    assert list_checkpoints(tmp_path / "nowhere") == []


# -- matching --------------------------------------------------------------------------------------


def test_no_weights_are_asked_for(log):
    model = net(0)
    Checkpointer(model).load("")
    assert same(model, net(0))
    assert any("random" in line for line in log)


def test_bare_state_dict(tmp_path):
    model = net(1)
    Checkpointer(model).load(save(tmp_path, net(0).state_dict()), strict=True)
    assert same(model, net(0))


def test_module_prefix(tmp_path):
    """Files written through DistributedDataParallel have this prefix."""
    weights = {f"module.{name}": value for name, value in net(0).state_dict().items()}
    model = net(1)
    Checkpointer(model).load(save(tmp_path, {"model": weights}), strict=True)
    assert same(model, net(0))


def test_strict_names_keys_and_shapes(tmp_path):
    """conv is missing, and head has another shape; additional tensors do not matter."""
    model = model_of(stem__weight=(2, 2), conv__weight=(3,), head__weight=(80, 4))
    weights = {
        "stem.weight": torch.ones(2, 2),
        "head.weight": torch.ones(20, 4),
        "extra.weight": torch.ones(1),
    }
    with pytest.raises(CheckpointError) as raised:
        Checkpointer(model).load(save(tmp_path, weights), strict=True)
    for part in ("x.pth", "conv.weight", "head.weight", "(20, 4)", "(80, 4)"):
        assert part in str(raised.value)


def test_strict_admits_what_the_model_does_not_have(tmp_path):
    model = model_of(stem__weight=(2,))
    weights = {"stem.weight": torch.ones(2), "extra.weight": torch.ones(1)}
    Checkpointer(model).load(save(tmp_path, weights), strict=True)
    assert model.stem.weight.tolist() == [1, 1]


def test_what_fits_is_loaded(tmp_path, log):
    model = model_of(stem__weight=(2, 2), conv__weight=(3,), head__weight=(80, 4))
    weights = {
        "stem.weight": torch.ones(2, 2),
        "head.weight": torch.ones(20, 4),
        "extra.weight": torch.ones(1),
    }
    Checkpointer(model).load(save(tmp_path, weights))
    assert model.stem.weight.sum() == 4
    assert model.conv.weight.sum() == model.head.weight.sum() == 0
    (warning,) = [line for line in log if line.startswith("WARNING")]
    for part in ("conv.weight", "head.weight", "(20, 4)", "(80, 4)", "extra.weight"):
        assert part in warning


def test_report():
    model = model_of(a=(1,), b=(1,), c=(2,))
    weights = {"a": torch.ones(1), "c": torch.ones(3), "d": torch.ones(1), "note": "text"}
    report = load_weights(model, weights, strict=False)
    assert (report.loaded, report.missing, report.unused) == (["a"], ["b"], ["d"])
    assert len(report.mismatched) == 1 and report.mismatched[0].startswith("c ")
    assert report.prefix == ""


def test_long_reports_are_cut():
    names = [f"layer{i}" for i in range(40)]
    report = load_weights(
        model_of(**{name: (1,) for name in [*names, "a"]}), {"a": torch.ones(1)}, strict=False
    )
    assert "40 in all" in report.describe() and len(report.describe()) < 200


def test_everything_fits_means_nothing_to_report():
    assert load_weights(net(0), net(1).state_dict(), strict=True).describe() == ""


DETECTOR = {
    "backbone__bottom_up__stem__conv1__weight": (4,),
    "backbone__bottom_up__res2__conv1__weight": (5,),
    "backbone__fpn_lateral3__weight": (6,),
    "head__conv1__weight": (4,),
}


def test_backbone_file(log, tmp_path):
    """stem.conv1.weight fits backbone.bottom_up.stem.conv1.weight, and nothing else."""
    weights = {
        "stem.conv1.weight": torch.ones(4),
        "res2.conv1.weight": torch.ones(5),
        "fc.weight": torch.ones(9),
    }
    model = model_of(**DETECTOR)
    Checkpointer(model).load(save(tmp_path, weights))
    loaded = {name for name, value in model.state_dict().items() if value.sum() > 0}
    prefix = "backbone.bottom_up."
    assert loaded == {f"{prefix}stem.conv1.weight", f"{prefix}res2.conv1.weight"}
    assert any(prefix in line and "2 tensors" in line for line in log)


def test_names_match_in_whole_parts():
    """conv1.weight is not the end of myconv1.weight."""
    with pytest.raises(CheckpointError):
        load_weights(model_of(myconv1__weight=(1,)), {"conv1.weight": torch.ones(1)}, strict=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "weights",
    [
        {"encoder.weight": torch.ones(4)},
        {"stem.conv1.weight": torch.ones(99)},
        {},
        {"epoch": 3},
    ],
)
def test_file_of_another_model(tmp_path, weights, strict):
    """No tensor fits: the random weights are never used silently."""
    with pytest.raises(CheckpointError, match=r"x\.pth.*does not belong to this model") as raised:
        Checkpointer(model_of(**DETECTOR)).load(save(tmp_path, {"model": weights}), strict=strict)
    assert "stem.conv1.weight" in str(raised.value)


@pytest.mark.parametrize(
    "use_ema, in_file, seed", [(True, True, 2), (False, True, 1), (True, False, 1)]
)
def test_averaged_weights(tmp_path, use_ema, in_file, seed):
    """Seed 1: the weights; seed 2: their average."""
    content = {"model": net(1).state_dict()}
    if in_file:
        content["ema"] = net(2).state_dict()
    model = net(0)
    Checkpointer(model).load(save(tmp_path, content), use_ema=use_ema)
    assert same(model, net(seed))


def test_half_precision_file():
    model = net(0)
    load_weights(model, {k: v.half() for k, v in net(1).state_dict().items()}, strict=True)
    assert model[0].weight.dtype == torch.float32
    torch.testing.assert_close(model[0].weight, net(1)[0].weight, atol=1e-2, rtol=0)


# -- files that cannot be used ---------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        Checkpointer(net()).load(tmp_path / "nowhere.pth")


def test_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder, not a file"):
        load_file(tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("tenths", range(10))
def test_truncated_file(tmp_path, tenths, new_format):
    """The formats of torch >= 1.6 and of older versions."""
    content = {"model": net().state_dict()}
    path = save(tmp_path, content, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(CheckpointError, match=r"x\.pth \(.* bytes\) cannot be read"):
        load_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_garbage(tmp_path, suffix):
    """Each first byte: many are opcodes of the pickle format."""
    path = tmp_path / f"garbage.{suffix}"
    for first in range(256):
        path.write_bytes(bytes([first]) + b"\x07\0\0\0\0\0\0\0garbage" * 3)
        with pytest.raises(CheckpointError, match=rf"garbage\.{suffix}"):
            load_file(path)


@pytest.mark.parametrize(
    "text", ["version https://git-lfs.github.com/spec/v1\noid sha256:0", "<html>404</html>", "{}"]
)
def test_text_instead_of_weights(tmp_path, text):
    (tmp_path / "x.pth").write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        load_file(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), 5, None, "text"])
def test_files_without_names(tmp_path, content):
    with pytest.raises(CheckpointError, match=rf"x\.pth holds a {type(content).__name__}"):
        load_file(save(tmp_path, content))


@pytest.mark.parametrize("inside", [torch.ones(2), [1], 5])
def test_model_entry_without_names(tmp_path, inside):
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        Checkpointer(net()).load(save(tmp_path, {"model": inside}))


class Runs:
    """Object that runs `function(*arguments)` when pickle.loads() reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "old torch", "pickle", "pkl"])
@pytest.mark.parametrize("function", [os.mkdir, eval, exec])
def test_code_in_a_file_does_not_run(tmp_path, how, function):
    marker = tmp_path / "it ran"
    argument = str(marker) if function is os.mkdir else f"__import__('os').mkdir({str(marker)!r})"
    content = {"model": net().state_dict(), "extra": Runs(function, argument)}
    path = tmp_path / ("x.pkl" if how == "pkl" else "x.pth")
    if how in ("pickle", "pkl"):
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
        torch.load(path, weights_only=False)
    assert marker.is_dir()  # pickle.loads() does run it
    marker.rmdir()
    with pytest.raises(CheckpointError, match=r"x\.p"):
        load_file(path)
    assert not marker.exists()


# -- Caffe2's files --------------------------------------------------------------------------------


def write_pickle(folder, content, protocol=2):
    path = folder / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize(
    "caffe2, ours",
    [
        ("conv1_w", "stem.conv1.weight"),
        ("conv1_b", "stem.conv1.bias"),
        ("res_conv1_bn_s", "stem.conv1.norm.weight"),
        ("res_conv1_bn_b", "stem.conv1.norm.bias"),
        ("conv1_gn_s", "stem.conv1.norm.weight"),
        ("conv1_gn_b", "stem.conv1.norm.bias"),
        ("res2_0_branch1_w", "res2.0.shortcut.weight"),
        ("res2_0_branch1_bn_s", "res2.0.shortcut.norm.weight"),
        ("res2_0_branch2a_w", "res2.0.conv1.weight"),
        ("res2_0_branch2a_bn_s", "res2.0.conv1.norm.weight"),
        ("res2_0_branch2a_bn_b", "res2.0.conv1.norm.bias"),
        ("res3_3_branch2b_w", "res3.3.conv2.weight"),
        ("res3_3_branch2b_bn_rm", "res3.3.conv2.norm.running_mean"),
        ("res3_3_branch2b_bn_riv", "res3.3.conv2.norm.running_var"),
        ("res4_22_branch2c_w", "res4.22.conv3.weight"),
        ("res5_2_branch2c_gn_s", "res5.2.conv3.norm.weight"),
        ("res5_2_branch2c_gn_b", "res5.2.conv3.norm.bias"),
        ("fc1000_w", "fc1000.weight"),
        ("fc1000_b", "fc1000.bias"),
    ],
)
def test_caffe2_names(caffe2, ours):
    assert rename_caffe2(caffe2) == ours


BLOBS = {
    "conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "res_conv1_bn_s": np.array([1.5, 2.5]),
    "res2_0_branch2a_w": np.ones((1, 2), dtype=np.float32),
    "conv1_w_momentum": np.ones((2, 3), dtype=np.float32),
    "lr": 0.1,
    "weight_order": "1",
}


@pytest.mark.parametrize("wrap", [lambda blobs: blobs, lambda blobs: {"blobs": blobs, "cfg": "x"}])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_caffe2_file(tmp_path, wrap, protocol):
    """Blobs are renamed; momenta, numbers and texts are left out."""
    weights = load_file(write_pickle(tmp_path, wrap(BLOBS), protocol))["model"]
    assert set(weights) == {"stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight"}
    np.testing.assert_array_equal(weights["stem.conv1.weight"], BLOBS["conv1_w"])
    assert weights["stem.conv1.norm.weight"].tolist() == [1.5, 2.5]


def test_converted_file_keeps_its_names(tmp_path):
    """detectron2's own files: model and __author__."""
    model = {"stem.conv1.weight": np.ones(4, dtype=np.float32), "a_w": np.zeros(1)}
    content = {"model": model, "__author__": "somebody", "matching_heuristics": True}
    weights = load_file(write_pickle(tmp_path, content))["model"]
    assert set(weights) == {"stem.conv1.weight", "a_w"}
    assert weights["stem.conv1.weight"].dtype == torch.float32


def test_file_written_by_python_2(tmp_path):
    """Texts and array data are bytes in Python 2: conv1_w = (1.0, -2.0), float32."""
    data = struct.pack("<2f", 1.0, -2.0)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + data + b"tb"
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02}U\x07conv1_w" + array + b"s.")
    assert load_file(path)["model"]["stem.conv1.weight"].tolist() == [1.0, -2.0]


def test_arrays_own_their_memory(tmp_path):
    """Training changes arrays in place."""
    weights = load_file(write_pickle(tmp_path, BLOBS))["model"]
    weights["stem.conv1.weight"].mul_(2)
    assert weights["stem.conv1.weight"][1, 2] == 10


def test_backbone_pickle_into_a_detector(tmp_path):
    shapes = {
        "backbone__bottom_up__stem__conv1__weight": (2, 3),
        "backbone__bottom_up__stem__conv1__norm__weight": (2,),
        "backbone__bottom_up__res2__0__conv1__weight": (1, 2),
        "head__cls_score__weight": (4,),
    }
    model = model_of(**shapes)
    Checkpointer(model).load(write_pickle(tmp_path, BLOBS))
    bottom_up = model.backbone.bottom_up
    np.testing.assert_array_equal(bottom_up.stem.conv1.weight.detach(), BLOBS["conv1_w"])
    assert bottom_up.stem.conv1.norm.weight.tolist() == [1.5, 2.5]
    assert bottom_up.res2.get_submodule("0").conv1.weight.sum() == 2
    assert model.head.cls_score.weight.sum() == 0


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "nt.system",
        "subprocess.Popen",
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.__import__",
        "__builtin__.eval",
        "importlib.import_module",
        "numpy.load",
        "numpy.fromfile",
        "numpy.ndarray.tofile",
        "torch.load",
        "torch.hub.load",
        "pickle.loads",
        "shutil.rmtree",
        "numpy.testing._private.utils.runstring",
    ],
)
def test_pickles_that_ask_for_more_than_arrays(tmp_path, name):
    """Each is refused by its name, in both notations, before anything is called."""
    module, _, function = name.rpartition(".")
    marker = str(tmp_path / "it ran")
    old = f"c{module}\n{function}\n(S'mkdir {marker}'\ntR.".encode()
    new = (
        pickle.PROTO
        + b"\x04"
        + b"".join(
            pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()
            for text in (module, function)
        )
    )
    new += pickle.STACK_GLOBAL + b")R."
    for content in (old, new):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.pkl is refused") as raised:
            load_file(tmp_path / "x.pkl")
        assert name in str(raised.value)
    assert not os.path.exists(marker)


def test_dotted_names_do_not_reach_further(tmp_path):
    """numpy / ndarray.tofile: the admitted class does not admit its methods."""
    text = pickle.SHORT_BINUNICODE
    content = pickle.PROTO + b"\x04" + text + b"\x05numpy" + text + b"\x0endarray.tofile"
    (tmp_path / "x.pkl").write_bytes(content + pickle.STACK_GLOBAL + b".")
    with pytest.raises(CheckpointError, match=r"numpy\.ndarray\.tofile"):
        load_file(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "content",
    [
        [np.ones(2)],
        np.ones(2),
        5,
        {"blobs": 5},
        {"model": 5, "__author__": "somebody"},
        {1: np.ones(2)},
    ],
)
def test_pickles_without_named_arrays(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"x\.pkl"):
        Checkpointer(net()).load(write_pickle(tmp_path, content))


@pytest.mark.parametrize("tenths", range(10))
def test_truncated_pickle(tmp_path, tenths):
    path = write_pickle(tmp_path, BLOBS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(CheckpointError, match=r"x\.pkl is refused"):
        load_file(path)


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, {"a": torch.ones(1)})
    assert load_file("~/x.pth")["model"]["a"].tolist() == [1]
