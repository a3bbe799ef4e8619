"""Files of weights: each format is recognised by its content, and unsafe content is refused."""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cvpods.checkpoint.files import load_file, read_file, write_weights
from cvpods.checkpoint.torch_files import Inert
from cvpods.utils.errors import CheckpointError

WEIGHTS = {
    "conv.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "conv.bias": torch.tensor([1.5, -2.5], dtype=torch.float16),
    "steps": torch.tensor(7),
}
PROVENANCE = {
    "experiment": "atss.res50",
    "expects": {"INPUT.FORMAT": "BGR", "MODEL.RESNETS.DEPTH": 50},
    "class_names": ["cat", "dog"],
}


def save(folder, content, name="x.pth", **kwargs):
    torch.save(content, folder / name, **kwargs)
    return folder / name


def assert_same(found, expected=WEIGHTS):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def refusal(path, read=load_file):
    """Return the error for `path`, which must be refused; it names the file and the reason."""
    with pytest.raises(CheckpointError) as raised:
        read(path)
    message = str(raised.value)
    assert str(path) in message and len(message) > len(str(path)) + 20
    return message


def zipped(folder, program, entries=(), name="x.pth", **kwargs):
    """Write a torch archive with this pickle by hand."""
    with zipfile.ZipFile(folder / name, "w", **kwargs) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        for entry, content in entries:
            archive.writestr(f"archive/{entry}", content)
    return folder / name


def text(value):
    """Return the instruction that puts a text on the stack."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor_program(numel, size, stride):
    """Return a pickle of {"a": float32 tensor on storage "0"}; the arguments are instructions."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numel
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"\x80\x02}"
        + text("a")
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"tQK\0"
        + size
        + stride
        + b"\x89"
        + hooks
        + b"tRs."
    )


STORAGE = [("data/0", struct.pack("<4f", 1, 2, 3, 4))]


# -- .pth ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "weights"])
def test_torch_file(tmp_path, key, new_format):
    content = WEIGHTS if key is None else {key: WEIGHTS, "iteration": 9}
    path = save(tmp_path, content, _use_new_zipfile_serialization=new_format)
    loaded = load_file(path)
    assert_same(loaded["model"])
    assert loaded["expects"] == {}
    assert loaded.get("iteration") == (None if key is None else 9)


def test_model_comes_before_the_others(tmp_path):
    content = {"weights": {}, "state_dict": {"b": torch.ones(1)}, "model": WEIGHTS}
    assert_same(load_file(save(tmp_path, content))["model"])


def test_state_dict_of_a_module(tmp_path):
    """It has _metadata; parameters and buffers."""
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    assert_same(load_file(save(tmp_path, module.state_dict()))["model"], module.state_dict())


def test_training_state_comes_along(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=0.5)
    parameter.sum().backward()
    optimizer.step()
    content = {"model": {"a": parameter}, "optimizer": optimizer.state_dict(), "iteration": 4}
    loaded = load_file(save(tmp_path, content))
    assert loaded["iteration"] == 4
    assert loaded["optimizer"]["param_groups"][0]["lr"] == 0.5
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], torch.full((3,), 0.1))


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_tensors_that_share_a_storage(tmp_path, new_format):
    base = torch.arange(12.0)
    weights = {"all": base, "half": base[6:], "turned": base.reshape(3, 4).T, "again": base}
    path = save(tmp_path, weights, _use_new_zipfile_serialization=new_format)
    assert_same(load_file(path)["model"], weights)


def test_arrays_as_weights(tmp_path):
    """numpy arrays become tensors; other values stay what they are."""
    weights = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "b": torch.ones(1),
    }
    loaded = load_file(save(tmp_path, {"model": weights, "mean": np.float64(0.5)}))
    assert loaded["mean"] == 0.5
    assert list(loaded["model"]) == list(weights)
    for name, value in weights.items():
        assert isinstance(loaded["model"][name], torch.Tensor)
        np.testing.assert_array_equal(loaded["model"][name], value)
    assert loaded["model"]["big"].dtype == torch.int32
    loaded["model"]["a"].mul_(2)  # training writes into them


def test_provenance_of_a_torch_file(tmp_path):
    write_weights(tmp_path / "x.pth", WEIGHTS, PROVENANCE)
    loaded = load_file(tmp_path / "x.pth")
    assert_same(loaded["model"])
    assert loaded["provenance"] == PROVENANCE
    assert loaded["expects"] == PROVENANCE["expects"]
    assert loaded["thing_classes"] == ["cat", "dog"]


@pytest.mark.parametrize("wrong", [5, None, "text", [1], {}, torch.ones(1)])
@pytest.mark.parametrize("where", ["expects", "provenance", "in provenance"])
def test_expectations_that_are_none(tmp_path, wrong, where):
    """The entries beside the weights can be anything."""
    extra = {"provenance": {"expects": wrong}} if where == "in provenance" else {where: wrong}
    loaded = load_file(save(tmp_path, {"model": WEIGHTS, **extra}))
    assert loaded["expects"] == {}
    assert_same(loaded["model"])


@pytest.mark.parametrize("name", ["items", "keys", "get", "__iter__", "__contains__"])
@pytest.mark.parametrize("key", [None, "model", "provenance", "expects"])
def test_attributes_of_an_ordered_dict(tmp_path, name, key):
    """An OrderedDict is read even if the file sets its `items` to a number."""
    made = b"ccollections\nOrderedDict\n)R" + text("a") + number(7) + b"s"
    made += b"}" + text(name) + b"K\x05sb"
    program = made if key is None else b"}" + text("model") + b"}s" + text(key) + made + b"s"
    loaded = load_file(zipped(tmp_path, b"\x80\x02" + program + b"."))
    assert dict.get(loaded["model"] if key in (None, "model") else loaded[key], "a") == 7
    assert loaded["expects"] == ({"a": 7} if key == "expects" else {})


# -- objects beside the weights --------------------------------------------------------------------


@pytest.fixture
def history_buffer():
    """Yield mmengine's class while the test writes; afterwards it cannot be imported."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    assert not any(name in sys.modules for name in names)
    modules = {name: types.ModuleType(name) for name in names}

    class HistoryBuffer:
        def __init__(self, values):
            self._log_history = np.asarray(values)
            self._statistics_methods = {"mean": np.float32(1)}

        def __setstate__(self, state):
            raise AssertionError("code of the file's class has run")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = names[-1], "HistoryBuffer"
    modules[names[-1]].HistoryBuffer = HistoryBuffer
    sys.modules.update(modules)
    yield HistoryBuffer
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_logs_beside_the_weights(tmp_path, history_buffer, new_format):
    """mmengine's HistoryBuffer and argparse.Namespace become Inert; nothing is imported."""
    hub = {"train/loss": history_buffer([1.0, 0.5]), "args": argparse.Namespace(lr=0.1)}
    content = {"state_dict": WEIGHTS, "message_hub": hub, "meta": {"epoch": 12}}
    path = save(tmp_path, content, _use_new_zipfile_serialization=new_format)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmengine"]:
        del sys.modules[name]
    loaded = load_file(path)
    assert not [name for name in sys.modules if name.partition(".")[0] == "mmengine"]
    assert_same(loaded["model"])
    assert loaded["meta"] == {"epoch": 12}
    for value in loaded["message_hub"].values():
        assert type(value) is Inert and vars(value) == {}


def test_what_is_admitted_is_not_admitted_for_others(tmp_path):
    """The permission ends when the file is read."""
    path = save(tmp_path, {"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)})
    load_file(path)
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(path, weights_only=True)


# -- .safetensors ----------------------------------------------------------------------------------


def test_safetensors_with_provenance(tmp_path):
    path = tmp_path / "x.safetensors"
    write_weights(path, WEIGHTS, PROVENANCE)
    loaded = load_file(path)
    assert {name: loaded["model"][name].tolist() for name in WEIGHTS} == {
        name: value.tolist() for name, value in WEIGHTS.items()
    }
    assert all(loaded["model"][name].dtype == value.dtype for name, value in WEIGHTS.items())
    assert loaded["provenance"] == PROVENANCE
    assert loaded["expects"] == PROVENANCE["expects"]
    assert loaded["thing_classes"] == ["cat", "dog"]
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["provenance"]) == PROVENANCE


def test_safetensors_of_others(tmp_path):
    """The file does not have this project's header."""
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded["model"]["a"].tolist() == [1, 1]
    assert loaded["expects"] == {} and "provenance" not in loaded


@pytest.mark.parametrize("written", ["5", "[1]", "null", '"text"', "true"])
def test_provenance_that_is_none(tmp_path, written):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"provenance": written})
    assert load_file(path)["expects"] == {}


@pytest.mark.parametrize("written", ["", "{", "[" * 100_000, "9" * 5000, "nonsense"])
def test_provenance_that_is_no_json(tmp_path, written):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"provenance": written})
    assert "damaged" in refusal(path)


def safetensors_file(folder, header, data=b""):
    path = folder / "x.safetensors"
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def test_safetensors_by_hand(tmp_path):
    path = safetensors_file(tmp_path, entry(), struct.pack("<2f", 1, 2))
    assert load_file(path)["model"]["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "header",
    [
        entry(offsets=(0, 10**12), shape=(10**12 // 4,)),
        entry(offsets=(0, 8), shape=(10**12,)),
        entry(offsets=(8, 0)),
        entry(offsets=(0, 4)),
        entry(offsets=(4, 12)),
        entry(shape=(2**63, 2**63)),
        entry(shape=(-2,)),
        entry(dtype="OBJECT"),
        entry(dtype="F128"),
        {"a": 5},
        {"__metadata__": {"provenance": 5}, **entry()},
        [],
        b"{" * 100_000,
        b"{\xff}",
        b'{"a":',
    ],
    ids=range(15),
)
def test_safetensors_that_claim_nonsense(tmp_path, header):
    refusal(safetensors_file(tmp_path, header, b"\0" * 8))


def test_safetensors_with_a_header_longer_than_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refusal(path)


# -- formats by content ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "x.bin", "x.txt", "x.pth", "x.pkl", "x.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pkl 2", "pkl 5"])
def test_recognised_whatever_it_is_called(tmp_path, kind, name):
    path = tmp_path / name
    if kind in ("zip", "legacy"):
        save(tmp_path, WEIGHTS, name, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "safetensors":
        path.write_bytes(safetensors.torch.save(WEIGHTS))
    elif name == "x.safetensors":
        pytest.skip("an ending that says what it is stands above the first byte of a pickle")
    else:
        arrays = {k: v.numpy() for k, v in WEIGHTS.items()}
        content = {"model": arrays, "__author__": "somebody"}
        path.write_bytes(pickle.dumps(content, int(kind[-1])))
    loaded = load_file(path)["model"]
    assert_same({k: loaded[k] for k in WEIGHTS})


def test_pickle_of_protocol_0_by_its_ending(tmp_path):
    """Its first bytes do not identify the format."""
    content = pickle.dumps({"blobs": {"conv1_w": np.ones(2, np.float32)}}, 0)
    (tmp_path / "x.pkl").write_bytes(content)
    assert load_file(tmp_path / "x.pkl")["model"]["stem.conv1.weight"].tolist() == [1, 1]


# -- refusals --------------------------------------------------------------------------------------


class Calls:
    """Object that calls `function(*arguments)` when pickle.loads() reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Unknown:
    pass


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "function, name",
    [
        (os.system, "system"),
        (os.mkdir, "mkdir"),
        (subprocess.check_call, "check_call"),
        (eval, "eval"),
        (np.load, "load"),
        (torch.load, "load"),
        (Path, "Path"),
    ],
)
def test_code_in_a_torch_file(tmp_path, function, name, new_format):
    marker = tmp_path / "it ran"
    arguments = [["mkdir", str(marker)]] if name == "check_call" else [f"mkdir '{marker}'"]
    content = {"model": WEIGHTS, "extra": Calls(function, *arguments)}
    path = save(tmp_path, content, _use_new_zipfile_serialization=new_format)
    assert name in refusal(path)
    assert not marker.exists()


def test_unknown_class(tmp_path):
    path = save(tmp_path, {"model": WEIGHTS, "extra": Unknown()})
    assert "Unknown" in refusal(path)


@pytest.mark.parametrize(
    "program, reason",
    [
        (b"cos\nsystem\n.", "os.system"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy\nndarray.tofile\n.", "ndarray.tofile"),
        (b"cargparse\nArgumentParser\n.", "argparse.ArgumentParser"),
        (b"cmmengine.runner\nRunner\n.", "mmengine.runner.Runner"),
        (b"cargparse\nNamespace\n)\x81}" + text("__class__") + b"cos\nsystem\nsb.", "os.system"),
        (b"(ios\nsystem\n.", "operand"),
        (b"\x82\x01.", "operand"),
        (b"c__builtin__\nbytearray\n" + number(10**13) + b"\x85R.", "bytearray"),
        (b"}" + b"(" * 100_000 + b"t" * 100_000 + b"Ns.", "tuples in tuples"),
        (b"})" + b"\x85" * 2_000_000 + b"Ns.", "tuples in tuples"),
        (b"", "no end"),
        (b"]]]", "no end"),
        (b"a.", "damaged"),
    ],
    ids=range(14),
)
def test_programs_in_a_torch_file(tmp_path, program, reason):
    """Hashing a key of two million nested tuples would crash the interpreter."""
    assert reason in refusal(zipped(tmp_path, b"\x80\x02" + program))
    legacy = save(tmp_path, {}, "legacy.pth", _use_new_zipfile_serialization=False)
    whole = legacy.read_bytes()
    at = whole.rindex(b"\x80\x02}q\x00.")
    legacy.write_bytes(whole[:at] + b"\x80\x02" + program + whole[at + 6 :])
    if reason not in ("no end", "damaged"):
        assert reason in refusal(legacy)
    else:
        refusal(legacy)


def test_array_that_never_got_its_content(tmp_path):
    """The array is made without a call: it is not a weight, and not an error."""
    program = b"\x80\x02}" + text("a") + b"cnumpy\nndarray\n)\x81s."
    assert not isinstance(load_file(zipped(tmp_path, program))["model"]["a"], torch.Tensor)


def test_compressed_entries(tmp_path):
    """1 GB of zeros takes 1 MB."""
    path = zipped(tmp_path, b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)


def test_archive_whose_entries_lie_over_each_other(tmp_path):
    """Many names for the same bytes: the entries claim more bytes than the file has."""
    path = zipped(tmp_path, b"\x80\x02}.", [("data/0", b"\0" * 100_000)])
    raw = path.read_bytes()
    directory = raw.index(b"PK\x01\x02")
    end = raw.index(b"PK\x05\x06")
    records = raw[directory:end]
    last = records[records.rindex(b"PK\x01\x02") :]
    many = records + last * 9
    tail = bytearray(raw[end:])
    struct.pack_into("<HHI", tail, 8, 12, 12, len(many))
    path.write_bytes(raw[:directory] + many + bytes(tail))
    assert "claim more bytes than the file has" in refusal(path)


def test_tensor_by_hand(tmp_path):
    """The next tests change one number of this file."""
    path = zipped(tmp_path, tensor_program(b"K\x04", b"K\x04\x85", b"K\x01\x85"), STORAGE)
    assert load_file(path)["model"]["a"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "numel, size, stride",
    [
        (number(10**12), b"K\x04\x85", b"K\x01\x85"),
        (b"K\x04", number(10**12) + b"\x85", b"K\x01\x85"),
        (b"K\x04", number(10**12) + b"\x85", b"K\0\x85"),
        (b"K\x04", number(2**32) + number(2**32) + b"\x86", b"K\0K\0\x86"),
        (b"K\x04", number(-4) + b"\x85", b"K\x01\x85"),
        (b"K\x04", b"K\x04\x85", number(-1) + b"\x85"),
        (number(-4), b"K\x04\x85", b"K\x01\x85"),
        (b"K\x05", b"K\x05\x85", b"K\x01\x85"),
        (b"K\x04", b"K\x03K\x03\x86", b"K\0K\x01\x86"),
    ],
)
def test_tensors_that_claim_more_than_there_is(tmp_path, numel, size, stride):
    refusal(zipped(tmp_path, tensor_program(numel, size, stride), STORAGE))


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False])
def test_expanded_tensors(tmp_path, new_format, nested):
    """One number in the file, 4 GB once it is copied."""
    weights = {"a": torch.zeros(1).expand(10**9)}
    content = {"model": weights} if nested else weights
    path = save(tmp_path, content, _use_new_zipfile_serialization=new_format)
    assert path.stat().st_size < 10_000
    message = refusal(path)
    assert "(1000000000,)" in message and "not held in full" in message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: torch.eye(3).to_sparse(), "sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.empty(3, device="meta"), "meta"),
    ],
)
def test_tensors_without_a_storage(tmp_path, make, reason):
    assert reason in refusal(save(tmp_path, {"odd.weight": make()}))
    assert "odd.weight" in refusal(tmp_path / "x.pth")


def test_tensor_of_memory_that_nobody_wrote(tmp_path):
    """torch.Tensor(10**7) is 40 MB of uninitialised memory."""
    program = b"\x80\x02}" + text("a") + b"ctorch\nTensor\n" + number(10**7) + b"\x85Rs."
    assert "claims 40,000,000 bytes" in refusal(zipped(tmp_path, program))


def test_storages_that_the_file_does_not_list(tmp_path):
    """In the format before torch 1.6, a storage that is not listed is never filled."""
    path = save(tmp_path, {"a": torch.ones(500)}, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    at = raw.rindex(b"\x80\x02]q\x00")
    path.write_bytes(raw[:at] + b"\x80\x02].")
    assert "claims 2,000 bytes" in refusal(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors", "bin"])
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "version"),
        (b"name: weights\n", "name"),
        (b"\0" * 1000, "\\x00"),
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06" + b"\0" * 18, "PK"),
        (b"\x80", "."),
    ],
)
def test_something_else(tmp_path, content, reason, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    message = refusal(path)
    if suffix in ("pth", "bin"):
        assert reason in message


@pytest.mark.filterwarnings("ignore")
def test_torchscript(tmp_path):
    class Tiny(torch.nn.Module):
        def forward(self, x):
            return x + 1

    if not hasattr(torch, "jit"):
        pytest.skip("this torch has no TorchScript")
    torch.jit.script(Tiny()).save(str(tmp_path / "x.pth"))
    assert "TorchScript" in refusal(tmp_path / "x.pth")


def test_other_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("read", [load_file, read_file])
def test_folder(tmp_path, read):
    folder = tmp_path / "x.pth"
    folder.mkdir()
    refusal(folder, read)


@pytest.mark.parametrize("read", [load_file, read_file])
def test_missing(tmp_path, read):
    refusal(tmp_path / "nowhere.pth", read)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pkl 2", "pkl 4"])
def test_truncated_anywhere(tmp_path, kind):
    """Cut at 200 places, including the last bytes."""
    if kind in ("zip", "legacy"):
        path = save(tmp_path, {"model": WEIGHTS}, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "safetensors":
        path = tmp_path / "x.safetensors"
        write_weights(path, WEIGHTS, PROVENANCE)
    else:
        path = tmp_path / "x.pkl"
        arrays = {name: value.numpy() for name, value in WEIGHTS.items()}
        path.write_bytes(pickle.dumps({"blobs": arrays}, int(kind[-1])))
    assert len(load_file(path)["model"]) == 3
    whole = path.read_bytes()
    ends = {len(whole) * i // 150 for i in range(150)} | set(range(len(whole) - 50, len(whole)))
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        refusal(path)


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "x.pkl", "x.bin", "x.pth.tmp", "x.zip"])
def test_other_endings_are_not_written(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"\.pth or \.safetensors"):
        write_weights(tmp_path / name, WEIGHTS, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_the_key_of_the_weights(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    write_weights(path, WEIGHTS, {"a": 1}, key="state_dict")
    content = torch.load(path, weights_only=True)
    assert set(content) == {"state_dict", "provenance"} and content["provenance"] == {"a": 1}
    assert_same(content["state_dict"])


def test_folders_are_made(tmp_path):
    write_weights(tmp_path / "a" / "b" / "x.pth", WEIGHTS, {})
    assert_same(load_file(tmp_path / "a" / "b" / "x.pth")["model"])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_written_whole_or_not_at_all(tmp_path, monkeypatch, suffix, step):
    path = tmp_path / f"x.{suffix}"
    write_weights(path, WEIGHTS, {})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(CheckpointError, match=rf"x\.{suffix} cannot be written: No space left"):
        write_weights(path, {"other": torch.ones(1000)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_views_do_not_bring_their_storage(tmp_path, suffix):
    large = torch.zeros(1_000_000)
    weights = {"view": large[5:8], "turned": large[:6].reshape(2, 3).T}
    weights["expanded"] = large[:1].expand(4)
    path = tmp_path / f"x.{suffix}"
    write_weights(path, weights, {})
    assert path.stat().st_size < 5000
    loaded = load_file(path)["model"]
    assert_same({name: loaded[name] for name in weights}, weights)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_shared_tensors_are_written(tmp_path, suffix):
    """Tied layers, which safetensors would refuse without copies."""
    tied = torch.nn.Parameter(torch.arange(3.0))
    write_weights(tmp_path / f"x.{suffix}", {"a": tied, "b": tied}, {})
    loaded = load_file(tmp_path / f"x.{suffix}")["model"]
    assert loaded["a"].tolist() == loaded["b"].tolist() == [0, 1, 2]
    assert not loaded["a"].requires_grad


def test_weights_are_left_alone_by_writing(tmp_path):
    weights = OrderedDict(a=torch.nn.Parameter(torch.ones(2)))
    write_weights(tmp_path / "x.pth", weights, {})
    assert list(weights) == ["a"] and weights["a"].requires_grad


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_written_files_are_the_same_each_time(tmp_path, suffix):
    """Two processes write the same bytes, so that a published hash can be reproduced."""
    code = (
        "import sys, torch; from pathlib import Path; "
        "from cvpods.checkpoint import write_weights; "
        "weights = {name: torch.arange(9.0) for name in 'cab'}; "
        "write_weights(Path(sys.argv[1]), weights, {'source': 'x', 'expects': {'A': 1, 'B': 2}})"
    )
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
    assert paths[0].read_bytes() == paths[1].read_bytes()
