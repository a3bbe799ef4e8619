"""Pickles read as data: plain values are returned, and any other request is refused."""

import builtins
import functools
import io
import operator
import os
import pickle
import pickletools
import struct
import subprocess
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch

from cvpods.checkpoint import plain_pickle
from cvpods.checkpoint.pickle_instructions import PlainPickleError
from cvpods.checkpoint.plain_pickle import load_plain_pickle
from cvpods.checkpoint.plain_values import PlainArray, as_tensor
from cvpods.checkpoint.torch_pickle import check_torch_pickle


def plain(value):
    """Return `value` with numpy arrays in place of PlainArray."""
    if isinstance(value, PlainArray):
        return value.array
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(member) for member in value)
    return value


def refusal(data):
    """Return the message of load_plain_pickle() for `data`, which it must refuse."""
    with pytest.raises(PlainPickleError) as raised:
        load_plain_pickle(data)
    assert len(str(raised.value)) < 500 and str(raised.value).isprintable()
    return str(raised.value)


def text(value):
    """Return the instruction that puts a text on the stack."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x0a" + value.to_bytes(10, "little")


# -- plain values ----------------------------------------------------------------------------------

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
NUMBERS = "? b B i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        255,
        65535,
        -1,
        2**31,
        -(2**63),
        2**2000,
        0.1,
        float("inf"),
        "",
        "text",
        "\u00e9\u4e2d\U0001f600\n\\",
        "x" * 70_000,
        b"",
        b"\0\xff'\\\n",
        b"x" * 70_000,
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [],
        [1],
        list(range(2500)),
        {},
        {"a": 1},
        {str(i): i for i in range(2500)},
        {1: "a", 2.5: "b", None: "c", b"d": "d", False: "e"},
        {"a": [({"b": ()},)], "c": {"d": [[]]}},
        set(),
        {1, "a", b"b", None},
        frozenset({1, 2}),
        OrderedDict([("b", 1), ("a", 2)]),
    ],
    ids=lambda value: type(value).__name__,  # a set's own text changes from run to run
)
def test_values_come_back(value, protocol):
    loaded = load_plain_pickle(pickle.dumps(value, protocol))
    assert loaded == value
    assert isinstance(value, (OrderedDict, frozenset)) or type(loaded) is type(value)
    if isinstance(value, dict):
        assert list(loaded) == list(value)


def test_bytearray_of_protocol_5():
    assert load_plain_pickle(pickle.dumps(bytearray(b"ab"), 5)) == bytearray(b"ab")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", NUMBERS)
def test_arrays_come_back(code, protocol):
    """Arrays of both byte orders, single numbers and empty arrays."""
    for shape in ((), (0,), (1,), (7,), (2, 3), (0, 4), (2, 3, 4)):
        for order in "<>":
            array = (np.arange(int(np.prod(shape))) * 37 % 251).astype(code).reshape(shape)
            array = array.astype(array.dtype.newbyteorder(order))
            loaded = load_plain_pickle(pickle.dumps(array, protocol)).array
            assert loaded.dtype == array.dtype and loaded.shape == array.shape
            np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(10)[::3],
        np.arange(4.0)[::-1],
        np.broadcast_to(np.arange(3), (2, 3)),
        np.array(["a", "\u00e9\u4e2d"]),
        np.array([b"a", b"bc"]),
    ],
    ids=["fortran", "transposed", "steps", "reversed", "broadcast", "texts", "bytes"],
)
def test_arrays_laid_out_otherwise(array, protocol):
    loaded = load_plain_pickle(pickle.dumps(array, protocol)).array
    np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", NUMBERS)
def test_scalars_come_back(code, protocol):
    loaded = load_plain_pickle(pickle.dumps(np.dtype(code).type(3), protocol))
    assert loaded == np.dtype(code).type(3) and not isinstance(loaded, np.generic)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_of_arrays(protocol):
    array = np.arange(3, dtype=np.float32)
    content = {
        "model": OrderedDict(a=array, b=array),
        "list": [array, (array,)],
        "lr": np.float64(1),
    }
    loaded = plain(load_plain_pickle(pickle.dumps(content, protocol)))
    assert loaded["lr"] == 1 and list(loaded) == list(content)
    for found in (*loaded["model"].values(), loaded["list"][0], loaded["list"][1][0]):
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_attributes_of_a_dict_are_left_out(protocol):
    """torch's state_dict has _metadata."""
    state = OrderedDict(a=np.ones(2))
    state._metadata = OrderedDict({"": {"version": 1}})
    loaded = plain(load_plain_pickle(pickle.dumps(state, protocol)))
    assert list(loaded) == ["a"] and not hasattr(loaded, "_metadata")
    np.testing.assert_array_equal(loaded["a"], [1, 1])


def array_of_python_2(quote):
    """Return (1.0, -2.0) as float32; quote(bytes) returns the instruction of a text."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + quote(b"b") + b"tR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(" + quote(b"f4") + b"I0\nI1\ntR(I3\n" + quote(b"<") + b"NNN"
        b"I-1\nI-1\nI0\ntbI00\n" + quote(struct.pack("<2f", 1, -2)) + b"tb"
    )


@pytest.mark.parametrize(
    "quote",
    [
        lambda raw: b"S'" + repr(raw)[2:-1].encode() + b"'\n",
        lambda raw: b'S"' + repr(raw)[2:-1].encode() + b'"\n',
        lambda raw: b"S'" + raw + b"'\n",
        lambda raw: b"T" + struct.pack("<i", len(raw)) + raw,
        lambda raw: b"U" + bytes([len(raw)]) + raw,
    ],
    ids=["protocol 0", "double quotes", "not escaped", "protocol 1", "protocol 2"],
)
def test_python_2(quote):
    """Texts and array data are bytes in Python 2; -2.0 ends with the byte 192."""
    data = (
        b"(d" + quote(b"conv1_w") + array_of_python_2(quote) + b"s" + quote(b"n") + b"L7L\ns"
        b"V\\u00e9\nI01\ns."
    )
    loaded = plain(load_plain_pickle(data))
    assert loaded.pop("conv1_w").tolist() == [1.0, -2.0]
    assert loaded == {"n": 7, "\u00e9": True}


def test_all_ways_onto_and_off_the_stack():
    """Instructions that no pickler writes today: LIST, DICT, POP, POP_MARK, DUP, PUT, GET."""
    assert load_plain_pickle(b"(I1\n2p5\n0g5\nl.") == [1, 1]
    assert load_plain_pickle(b"(I7\n(I8\nI9\n1t.") == (7,)
    assert load_plain_pickle(b"(I7\n(0t.") == (7,)
    assert load_plain_pickle(b"(V\nNd.") == {"": None}
    assert load_plain_pickle(b"I1\nr\x01\0\0\x000j\x01\0\0\0.") == 1
    assert load_plain_pickle(b"\x80\x04K\x05\x940h\x00.") == 5


def test_what_stands_behind_the_end_is_no_matter():
    assert load_plain_pickle(b"I1\n.garbage") == 1


def test_tensors_of_arrays():
    """Tensors have the machine's byte order, are writable, and exist once for each array."""
    for code in (">f4", "<f8", ">i2", "u1", "<u2", ">f2"):
        array = np.arange(6).reshape(2, 3).astype(code)
        value = load_plain_pickle(pickle.dumps(array, 2))
        tensor = as_tensor(value)
        assert tensor.tolist() == array.tolist() and tensor.element_size() == array.itemsize
        tensor.zero_()
        assert as_tensor(value) is tensor
    texts = load_plain_pickle(pickle.dumps(np.array(["a"]), 2))
    assert as_tensor(texts) is texts
    assert as_tensor(5) == 5 and isinstance(as_tensor(PlainArray()), PlainArray)


# -- refusals --------------------------------------------------------------------------------------

NAMES = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.__import__",
    "builtins.bytearray",
    "__builtin__.eval",
    "subprocess.Popen",
    "functools.partial",
    "operator.attrgetter",
    "torch.load",
    "torch._utils._rebuild_tensor_v2",
    "numpy.load",
    "numpy.ndarray.tofile",
    "numpy.core.multiarray._reconstruct.__globals__",
    "collections.OrderedDict.__init__",
    "copyreg._reconstructor",
]


def test_the_names_that_are_admitted():
    """Before adding a name, consider what a file could make it do."""
    assert {
        "__builtin__.bytes",
        "__builtin__.frozenset",
        "__builtin__.set",
        "_codecs.encode",
        "builtins.bytes",
        "builtins.frozenset",
        "builtins.set",
        "collections.OrderedDict",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy.dtype",
        "numpy.ndarray",
    } == plain_pickle.NAMES


@pytest.mark.parametrize("name", NAMES)
def test_names_by_both_instructions(name):
    """A dotted name is refused whether it is divided at the first or at the last dot."""
    for module, _, function in (name.partition("."), name.rpartition(".")):
        for data in (
            f"c{module}\n{function}\n.".encode(),
            b"\x80\x04" + text(module) + text(function) + b"\x93.",
        ):
            assert f"asks for {name}" in refusal(data)


@pytest.mark.parametrize(
    "data, asked",
    [
        (text("numpy") + b"N\x93.", "not a text"),
        (b"K\x01" + text("ndarray") + b"\x93.", "not a text"),
        (text("os\x1b[2J") + text("system") + b"\x93.", r"os\\x1b\[2J"),
        (b"X\x05\0\0\0os\xed\xa0\x80" + text("system") + b"\x93.", r"os\\ud800"),
        (text("numpy") + text("ndarray ") + b"\x93.", "ndarray "),
        (text("NUMPY") + text("ndarray") + b"\x93.", "NUMPY"),
        (text("x" * 10_000) + text("y") + b"\x93.", "x" * 60 + r"\.y"),
    ],
)
def test_strange_names(data, asked):
    """Numbers, control characters, half a character, spaces, capitals, 10,000 letters."""
    with pytest.raises(PlainPickleError, match=asked):
        load_plain_pickle(data)
    refusal(data)


class Calls:
    """Object that calls `function(*arguments)` when pickle.loads() reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def mkdir_by_class(folder):
    """Return objects that make the folder, one for each kind of __reduce__."""
    path = str(folder)
    code = f"__import__('os').mkdir({path!r})"
    return {
        "mkdir": Calls(os.mkdir, path),
        "system": Calls(os.system, f"mkdir '{path}'"),
        "eval": Calls(builtins.eval, code),
        "exec": Calls(builtins.exec, code),
        "Popen": Calls(subprocess.check_call, ["mkdir", path]),
        "nested": {"model": [np.ones(2), (Calls(os.mkdir, path),)]},
        "partial": [Calls(functools.partial, os.mkdir), Calls(os.mkdir, path)],
        "attrgetter": [Calls(operator.attrgetter, "mkdir"), Calls(os.mkdir, path)],
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", list(mkdir_by_class("x")))
def test_code_of_a_class_does_not_run(tmp_path, kind, protocol):
    folder = tmp_path / "it ran"
    data = pickle.dumps(mkdir_by_class(folder)[kind], protocol)
    pickle.loads(data)
    assert folder.is_dir()  # pickle.loads() does run it
    folder.rmdir()
    message = refusal(data)
    names = ("mkdir", "system", "eval", "exec", "check_call", "partial", "attrgetter")
    assert "asks for" in message and any(name in message for name in names)
    assert not folder.exists()


MKDIR = b"cos\nmkdir\n"


def by_hand(folder):
    """Return {instruction: a pickle that makes the folder with it}."""
    path = text(str(folder))
    partial = b"cfunctools\npartial\n"
    return {
        "REDUCE": MKDIR + path + b"\x85R.",
        "INST": b"(" + path + b"ios\nmkdir\n.",
        "OBJ": b"(" + MKDIR + path + b"o.",
        "NEWOBJ": partial + MKDIR + path + b"\x86\x81)R.",
        "NEWOBJ_EX": partial + MKDIR + path + b"\x86}\x92)R.",
        "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93" + path + b"\x85R.",
        "BUILD": partial + MKDIR + b"\x85\x81(" + MKDIR + path + b"\x85}Ntb)R.",
    }


@pytest.mark.parametrize("instruction", list(by_hand("x")))
def test_code_by_hand_does_not_run(tmp_path, instruction):
    folder = tmp_path / "it ran"
    data = by_hand(folder)[instruction]
    pickle.loads(data)
    assert folder.is_dir()
    folder.rmdir()
    refusal(data)
    assert not folder.exists()


# A plain pickle that holds the instruction; arguments are correct, so that nothing else is wrong.
REFUSED = {
    "INST": b"(iposix\nsystem\n.",
    "OBJ": b"(cnumpy\nndarray\no.",
    "NEWOBJ": b"cnumpy\nndarray\n)\x81.",
    "NEWOBJ_EX": b"cnumpy\nndarray\n)}\x92.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\0.",
    "EXT4": b"\x84\x01\0\0\0.",
    "PERSID": b"Pname\n.",
    "BINPERSID": b"NQ.",
    "NEXT_BUFFER": b"\x97.",
    "READONLY_BUFFER": b"N\x98.",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_instructions_that_are_refused_by_name(name):
    assert name in [opcode.name for opcode, _, _ in pickletools.genops(REFUSED[name])]
    assert f"instruction {name} makes more than plain values" in refusal(REFUSED[name])


def test_every_instruction_is_known():
    """Each is handled or refused by name, also a new instruction of a future Python."""
    for opcode in pickletools.opcodes:
        name = opcode.name
        handled = (
            name in plain_pickle._LITERALS
            or name in plain_pickle._CONSTANTS
            or name in plain_pickle._EMPTY
            or name in plain_pickle._TUPLES
            or name in plain_pickle._WITHOUT_EFFECT
            or hasattr(plain_pickle._Machine, f"op_{name.lower()}")
            or name == "STOP"
        )
        assert handled != (name in REFUSED), name
        if not handled:
            with pytest.raises(PlainPickleError, match=f"instruction {name} makes"):
                plain_pickle._Machine(100).run(name, None)
    assert len(REFUSED) == 11
    with pytest.raises(PlainPickleError, match="instruction FUTURE makes"):
        plain_pickle._Machine(100).run("FUTURE", None)


def test_every_byte_as_an_instruction():
    """With an empty and with a full stack, each gives a value or PlainPickleError."""
    read = refused = 0
    for first in range(256):
        for before in (b"", b"((N}X\x01\0\0\0aNN"):
            for after in (b".", b"\x01\0\0\0\0\0\0\0\n\n."):
                try:
                    load_plain_pickle(before + bytes([first]) + after)
                    read += 1
                except PlainPickleError as error:
                    refused += 1
                    assert str(error)
    assert read > 20 and refused > 800


@pytest.mark.parametrize(
    "data, message",
    [
        (b"cnumpy\nndarray\n)R.", "calls numpy.ndarray"),
        (b"N)R.", "calls a NoneType"),
        (b"\x8c\x09os.system)R.", "calls a str"),
        (b"cnumpy\ndtype\nNR.", "without arguments"),
        (b"cnumpy\ndtype\n]R.", "without arguments"),
        (b"cnumpy\ndtype\n)R.", "calls numpy.dtype wrongly"),
        (b"cbuiltins\nbytes\nK\x05\x85R.", "calls builtins.bytes wrongly"),
        (b"cbuiltins\nset\nK\x05\x85R.", "makes a set of a int"),
        (b"cbuiltins\nset\n](]e\x85R.", "has a list as the key"),
        (b"ccollections\nOrderedDict\nK\x05\x85R.", "makes a dict of a int"),
        (b"ccollections\nOrderedDict\n](Ne\x85R.", "something else than pairs"),
        (b"ccollections\nOrderedDict\n](](NNNee\x85R.", "something else than pairs"),
        (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.", "as 'rot13'"),
        (b"c_codecs\nencode\nN" + text("latin1") + b"\x86R.", "encodes a NoneType"),
        (b"c_codecs\nencode\n" + text("\u4e2d") + text("latin1") + b"\x86R.", "damaged"),
        (b"c_codecs\nencode\n" + text("a") + b"\x85R.", "wrongly"),
    ],
)
def test_calls_of_something_else(data, message):
    assert message in refusal(data)


SETSTATE = text("__setstate__") + MKDIR + b"s"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"N}b.", "changes a NoneType"),
        (b"]}b.", "changes a list"),
        (b"K\x01}" + SETSTATE + b"b.", "asks for os.mkdir"),
        (b"K\x01}" + text("__class__") + b"Nsb.", "changes a int"),
        (b"cnumpy\nndarray\n}" + text("tofile") + b"Nsb.", "changes a _Name"),
        (b"\x8f}b.", "changes a set"),
        (b"cnumpy\ndtype\n" + text("f4") + b"\x85R}b.", "byte order None"),
        (b"cnumpy\ndtype\n" + text("f4") + b"\x85RK\x03" + text("?") + b"\x86b.", "order '?'"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R}b.", "without shape"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)RN(NNNNt0b.", "without shape"),
    ],
)
def test_changes_of_something_else(data, message):
    assert message in refusal(data)


@pytest.mark.parametrize("name", ["items", "__setstate__", "__class__", "update", "__dict__"])
def test_attributes_of_dicts_are_not_set(name):
    loaded = load_plain_pickle(b"ccollections\nOrderedDict\n)R}" + text(name) + b"K\x05sb.")
    assert type(loaded) is dict and loaded == {} and not hasattr(loaded, "__dict__")


def array(shape=b"K\x02\x85", code="f4", raw=b"C\x08\0\0\0\0\0\0\0\0", order=b"\x89"):
    """Return a pickled array whose shape and bytes are instructions."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n"
        + text(code)
        + b"\x89\x88\x87R(K\x03"
        + text("<")
        + b"NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb" + order + raw + b"tb."
    )


def test_array_by_hand():
    assert load_plain_pickle(array()).array.tolist() == [0, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": number(10**12) + b"\x85"}, "of the shape (1000000000000,) and 8 bytes"),
        ({"shape": number(2**62) + b"K\x04\x86"}, "and 8 bytes"),
        ({"shape": number(2**70) + b"K\0\x86"}, "not a tuple of numbers"),
        ({"shape": b"J\xfe\xff\xff\xff\x85"}, "not a tuple of numbers"),
        ({"shape": b"\x88\x85"}, "not a tuple of numbers"),
        ({"shape": b"G" + struct.pack(">d", 2) + b"\x85"}, "not a tuple of numbers"),
        ({"shape": b"]K\x02a"}, "not a tuple of numbers"),
        ({"shape": b"(" + b"K\x01" * 8 + b"K\x02t"}, "9 dimensions"),
        ({"shape": b"K\x03\x85"}, "8 bytes, not 12"),
        ({"raw": b"N"}, "not bytes of a dtype"),
        ({"raw": b"]Na"}, "not bytes of a dtype"),
        ({"raw": text("\u4e2d" * 8)}, "damaged"),
        ({"code": "O"}, "of dtype 'O', not of numbers"),
        ({"code": "O8"}, "of dtype 'O8', not of numbers"),
        ({"code": "c16"}, "of dtype 'c16', not of numbers"),
        ({"code": "V8"}, "of dtype 'V8', not of numbers"),
        ({"code": "M8[s]"}, "not of numbers"),
        ({"code": "f4,O"}, "not of numbers"),
        ({"code": "i3"}, "calls numpy.dtype wrongly"),
        ({"code": "S" + "9" * 5000}, "calls numpy.dtype wrongly"),
        ({"code": "S0", "shape": number(10**12) + b"\x85", "raw": b"C\0"}, "damaged"),
        ({"code": "f4", "shape": number(2**62) + b"K\0\x86", "raw": b"C\0"}, "damaged"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "-".join(value),
)
def test_arrays_that_are_none(change, message):
    assert message in refusal(array(**change))


@pytest.mark.parametrize("dtype", ["O", "c8", "c16", "M8[s]", "m8[s]", [("a", "f4")]])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_something_else_than_numbers(dtype, protocol):
    message = refusal(pickle.dumps(np.zeros(2, dtype), protocol))
    assert "not of numbers" in message


def test_text_of_no_unicode():
    """numpy raises SystemError for the character 0xffffffff."""
    dtype = b"cnumpy\ndtype\n" + text("U1") + b"\x85R"
    data = b"cnumpy.core.multiarray\nscalar\n" + dtype + b"C\x04\xff\xff\xff\xff\x86R."
    assert "damaged" in refusal(data)


# -- small files that claim to be large ------------------------------------------------------------


@pytest.fixture
def peak():
    """Yield a function that returns the peak of Python's memory, in bytes."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


HUGE = struct.pack("<Q", 2**62)
NAME = b"c_codecs\nencode\nq\x01"
KEPT = text("x" * 100_000) + b"q\x00"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"B\xff\xff\xff\xffx.", "damaged"),
        (b"\x8e" + HUGE + b"x.", "damaged"),
        (b"\x8d" + HUGE + b"x.", "damaged"),
        (b"\x96" + HUGE + b"x.", "damaged"),
        (b"\x8e" + b"\xff" * 8 + b"x.", "damaged"),
        (b"X\xff\xff\xff\xffx.", "damaged"),
        (b"\x8b\xff\xff\xff\x7fx.", "damaged"),
        (b"\x8b\xff\xff\xff\xffx.", "damaged"),
        (b"T\xff\xff\xff\x7fx.", "damaged"),
        (b"cnumpy\nndarray\n" + number(10**12) + b"\x85\x85R.", "calls numpy.ndarray"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
        (b"g" + b"9" * 4000 + b"\n.", "damaged"),
        (b"L" + b"9" * 5000 + b"L\n.", "damaged"),
        (b"S" + b"x" * 1_000_000 + b"\n.", "without quotes"),
        (b"}" + b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b"Ns.", "a long int"),
        (b"}" + text("x" * 10**6) + b"Ns.", "a long str"),
        (b"}" + b"(" * 1000 + b"t" * 1000 + b"Ns.", "has a tuple as the key"),
        (b"})" + b"\x85" * 100_000 + b"Ns.", "has a tuple as the key"),
        (b"\x8f()" + b"\x85" * 100_000 + b"\x90.", "has a tuple as the key"),
        (b"()" + b"\x85" * 100_000 + b"\x91.", "has a tuple as the key"),
        (b"cbuiltins\nset\n])" + b"\x85" * 100_000 + b"a\x85R.", "has a tuple as the key"),
        (
            KEPT + NAME + text("latin1") + b"q\x02000" + b"h\x01h\x00h\x02\x86R" * 1000 + b".",
            "more",
        ),
        (
            b"](" + b"".join(b"M" + struct.pack("<H", i) for i in range(60_000)) + b"eq\x000"
            b"cbuiltins\nset\nq\x010" + b"h\x01h\x00\x85R" * 300 + b".",
            "makes more than it holds",
        ),
        (
            b"](" + b"NN\x86" * 30_000 + b"eq\x000"
            b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R" * 300 + b".",
            "makes more than it holds",
        ),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else f"{value[:6]!r}",
)
def test_bombs(data, message, peak):
    """The peak is at most 100 times the file plus 10 MB."""
    assert message in refusal(data)
    assert peak() < 10e6 + 100 * len(data)


def test_bytes_that_become_many_arrays(peak):
    """100 kB as float32, 1000 times, by either constructor: 100 MB in total."""
    kept = b"T" + struct.pack("<i", 100_000) + b"x" * 100_000 + b"q\x000"
    dtype = b"cnumpy\ndtype\n" + text("f4") + b"\x85Rq\x010M\xa8\x61\x85q\x020"
    buffer = b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01h\x02" + text("C") + b"tR"
    built = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01h\x02h\x01\x89h\x00tb"
    for made in (buffer, built):
        once = load_plain_pickle(kept + dtype + made + b".")
        assert once.array.shape == (25_000,)
        data = kept + dtype + made * 1000 + b"."
        assert "makes more than it holds" in refusal(data)
        assert peak() < 20e6


def test_one_array_under_many_names():
    """1 MB under 10,000 names: one tensor, not 10 GB of copies."""
    data = b"}" + array(b"J\x90\xd0\x03\0\x85", raw=b"B@B\x0f\0" + b"\0" * 10**6)[:-1] + b"q\x000"
    data += b"".join(text(f"n{i}") + b"h\x00s" for i in range(10_000)) + b"."
    tensors = [as_tensor(value) for value in load_plain_pickle(data).values()]
    assert len(tensors) == 10_000 and tensors[0].shape == (250_000,)
    assert len({tensor.data_ptr() for tensor in tensors}) == 1


def test_great_index(peak):
    """PUT at 2**32 - 1 and at 10**4000: a dict of one, not a table."""
    assert load_plain_pickle(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 5
    index = b"9" * 4000
    assert load_plain_pickle(b"K\x05p" + index + b"\n0g" + index + b"\n.") == 5
    assert peak() < 1e6


def test_itself_inside(peak):
    loaded = load_plain_pickle(b"]q\x00h\x00a.")
    assert loaded[0] is loaded
    loaded = load_plain_pickle(b"}q\x00X\x01\0\0\0ah\x00s.")
    assert loaded["a"] is loaded


DEPTH = 100_000


@pytest.mark.parametrize(
    "data",
    [
        b")" + b"\x85" * DEPTH + b".",
        b"]" * (DEPTH + 1) + b"a" * DEPTH + b".",
        b"}" + b"N}" * DEPTH + b"s" * DEPTH + b".",
    ],
    ids=["tuples", "lists", "dicts"],
)
def test_deep(data, peak):
    """100,000 levels are returned, and can be deleted."""
    value, levels = load_plain_pickle(data), 0
    while value:
        (value,) = value.values() if isinstance(value, dict) else value
        levels += 1
    assert levels == DEPTH
    assert peak() < 100e6


def test_each_level_twice_the_one_below(peak):
    """[x, x] 60 times: 2**60 leaves from 61 objects."""
    level = b"q\x00]q\x01h\x00ah\x00a"
    for repeated in (b"]" + level * 60, b"]" + b"2\x86" * 60):
        value = load_plain_pickle(repeated + b".")
        for _ in range(60):
            assert value[0] is value[1]
            value = value[0]
        assert peak() < 1e6


def test_marks_without_end():
    assert "damaged" in refusal(b"(" * 100_000)
    assert "damaged" in refusal(b"(" * 100_000 + b".")


# -- half a pickle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_anywhere(protocol):
    content = {
        "model": OrderedDict(a=np.arange(3, dtype=np.float32), b=np.float32(1)),
        "list": [None, True, 1, 2**40, -0.5, "text \u00e9", b"\xff", (1,), {2}],
    }
    whole = pickle.dumps(content, protocol)
    assert plain(load_plain_pickle(whole))["list"] == content["list"]
    for end in range(len(whole)):
        assert refusal(whole[:end])


# -- pickles that torch reads ----------------------------------------------------------------------


def check(data):
    """Return the message of check_torch_pickle() for `data`, or None if it passes."""
    try:
        check_torch_pickle(io.BytesIO(data))
    except PlainPickleError as error:
        return str(error)
    return None


def test_torch_pickle_passes():
    """A module's and an optimiser's pickle pass, and any number of tuples side by side."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {"optimizer": optimizer.state_dict(), "tuples": [(i, (i,)) for i in range(3000)]}
    assert check(pickle.dumps(content, 2)) is None
    nested = ()
    for _ in range(900):
        nested = (nested,)
    assert check(b"\x80\x02)" + b"\x85" * 900 + b".") is None


@pytest.mark.parametrize(
    "data, message",
    [
        (b"})" + b"\x85" * 2000 + b"Ns.", "more than 1000 deep"),
        (b"}" + b"(" * 2000 + b"t" * 2000 + b"Ns.", "more than 1000 deep"),
        (b"}N" + b"K\x01\x86" * 2000 + b"Ns.", "more than 1000 deep"),
        (b"}N" + b"K\x01K\x02\x87" * 2000 + b"Ns.", "more than 1000 deep"),
        (b"})" + b"\x85q\x00}h\x00" * 2000 + b"Ns.", "more than 1000 deep"),
        (b"c__builtin__\nbytearray\n" + number(10**12) + b"\x85R.", "asks for bytearray"),
        (b"cbuiltins\nbytearray\n.", "asks for bytearray"),
        (b"h\x00.", "damaged"),
        (b"q\x00.", "damaged"),
        (b"t.", "damaged"),
        (b"}", "no end"),
        (b"\xff.", "does not exist"),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else f"{value[:6]!r}",
)
def test_torch_pickle_is_refused(data, message):
    assert message in (check(data) or "it passed")
