"""ConfigDict: access, merging, overrides as typed on a command line, printing, the log link."""

import copy
import pickle

import pytest

from cvpods.configs import ConfigDict, FCOSConfig
from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import ConfigError


def make_config():
    """One key of every type."""
    return ConfigDict(
        {
            "NAME": "base",
            "MODEL": {
                "DEPTH": 50,
                "RATE": 0.5,
                "FROZEN": True,
                "SIZES": [1, 2],
                "STEPS": (1, 2),
                "WEIGHTS": None,
            },
        }
    )


def a_function(value):
    return value + 1


# -- access --------------------------------------------------------------------------------------


def test_attribute_and_item_are_one_value():
    config = make_config()
    config.NAME = "attribute"
    assert config["NAME"] == "attribute"
    config["NAME"] = "item"
    assert config.NAME == "item"
    config.MODEL.DEPTH = 18
    assert config["MODEL"]["DEPTH"] == 18
    config["MODEL"]["DEPTH"] = 34
    assert config.MODEL.DEPTH == 34


def test_assigned_dict_has_attributes():
    config = make_config()
    config.EXTRA = {"A": {"B": 3}}
    assert config.EXTRA.A.B == config["EXTRA"]["A"]["B"] == 3


def test_missing_key():
    config = make_config()
    with pytest.raises(AttributeError, match="MISSING"):
        config.MISSING  # noqa: B018
    with pytest.raises(KeyError, match="MISSING"):
        config["MISSING"]
    with pytest.raises(AttributeError):
        config.MODEL.MISSING  # noqa: B018
    assert not hasattr(config, "MISSING") and "MISSING" not in config
    assert config.get("MISSING") is None and config.get("MISSING", 7) == 7
    assert getattr(config, "MISSING", 8) == 8


def test_get_and_in_find_present_keys():
    config = make_config()
    assert "MODEL" in config and "DEPTH" in config.MODEL
    assert config.get("NAME", "other") == "base"
    assert config.MODEL.get("DEPTH") == 50


def test_pop_removes_attribute_and_item():
    config = make_config()
    assert config.pop("NAME") == "base"
    assert "NAME" not in config and not hasattr(config, "NAME")
    assert config.pop("NAME", 5) == 5
    with pytest.raises(KeyError):
        config.pop("NAME")


def test_delete_attribute():
    config = make_config()
    del config.NAME
    assert "NAME" not in config


def test_update_replaces_whole_entries():
    config = make_config()
    config.update({"MODEL": {"DEPTH": 1}}, NAME="updated")
    assert config == {"MODEL": {"DEPTH": 1}, "NAME": "updated"}
    assert config.MODEL.DEPTH == 1


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"]
)
def test_copies_are_equal_and_independent(duplicate):
    config = make_config()
    config.build_backbone = a_function
    config.MODEL.build = a_function
    other = duplicate(config)
    assert type(other) is ConfigDict and other == config
    assert other.build_backbone(1) == other.MODEL.build(1) == 2
    other.MODEL.SIZES.append(3)
    other.NAME = "other"
    assert config.MODEL.SIZES == [1, 2] and config.NAME == "base"
    assert other.MODEL.SIZES == other["MODEL"]["SIZES"] == [1, 2, 3]


# -- merge ---------------------------------------------------------------------------------------


def test_merge_is_recursive():
    config = make_config()
    config.merge({"MODEL": {"DEPTH": 18, "HEAD": {"CONVS": 4}}, "NEW": 1})
    assert config.MODEL.DEPTH == 18 and config.MODEL.RATE == 0.5
    assert config.MODEL.HEAD.CONVS == 4 and config.NEW == 1


def test_merge_keywords_win():
    config = make_config()
    config.merge({"MODEL": {"DEPTH": 18, "RATE": 1.0}}, MODEL={"DEPTH": 34})
    assert config.MODEL.DEPTH == 34 and config.MODEL.RATE == 1.0


@pytest.mark.parametrize("value", [3, [4], {"A": 1}, None])
def test_merge_replaces_values_of_other_kinds(value):
    config = make_config()
    config.merge({"NAME": value, "MODEL": {"SIZES": value}})
    assert config.NAME == value and config.MODEL.SIZES == value


def test_merge_group_by_scalar():
    config = make_config()
    config.merge({"MODEL": 3})
    assert config.MODEL == 3


def test_merge_never_aliases():
    source = {
        "PIPELINE": [("Flip", {"prob": 0.5})],
        "MODEL": {"RANGES": [[0, 1]], "SUB": {"L": []}},
    }
    before = copy.deepcopy(source)
    first, second = make_config(), make_config()
    first.merge(source)
    second.merge(first)
    for config in (first, second):
        config.PIPELINE[0][1]["prob"] = id(config)
        config.MODEL.RANGES[0].append(id(config))
        config.MODEL.SUB.L.append(id(config))
        config.MODEL.SUB.NEW = id(config)
    assert source == before
    assert first.PIPELINE[0][1]["prob"] == first.MODEL.SUB.NEW == id(first)
    assert first.MODEL.RANGES == [[0, 1, id(first)]] and first.MODEL.SUB.L == [id(first)]


# -- overrides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "typed", "expected"),
    [
        ("MODEL.DEPTH", "101", 101),
        ("MODEL.DEPTH", "-1", -1),
        ("MODEL.DEPTH", "8.0", 8),
        ("MODEL.DEPTH", "1e2", 100),
        ("MODEL.RATE", "1", 1.0),
        ("MODEL.RATE", "1e-3", 0.001),
        ("MODEL.FROZEN", "true", True),
        ("MODEL.FROZEN", "True", True),
        ("MODEL.FROZEN", "1", True),
        ("MODEL.FROZEN", "false", False),
        ("MODEL.FROZEN", "False", False),
        ("MODEL.FROZEN", "FALSE", False),
        ("MODEL.FROZEN", "0", False),
        ("MODEL.SIZES", "[3]", [3]),
        ("MODEL.SIZES", "(3, 4)", [3, 4]),
        ("MODEL.STEPS", "[3]", (3,)),
        ("MODEL.STEPS", "()", ()),
        ("MODEL.WEIGHTS", "a.pth", "a.pth"),
        ("MODEL.WEIGHTS", "3", 3),
        ("MODEL.DEPTH", "None", None),
        ("NAME", "None", None),
        ("NAME", "other/path", "other/path"),
        ("NAME", "", ""),
    ],
)
def test_merge_from_list_keeps_types(key, typed, expected):
    config = make_config()
    config.merge_from_list([key, typed])
    value = dict(flatten_raw(config))[key]
    assert value == expected and type(value) is type(expected)


def flatten_raw(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten_raw(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("text", ["2026_11_21", "1e3", "0x10", "1.50", "007", "12"])
def test_string_keeps_the_text_as_typed(text):
    config = make_config()
    config.merge_from_list(["NAME", text])
    assert config.NAME == text


@pytest.mark.parametrize(
    ("key", "typed", "hint"),
    [
        ("MODEL.DEPTH", "8.7", "whole number"),
        ("MODEL.DEPTH", "deep", "'deep'"),
        ("MODEL.DEPTH", "True", "True"),
        ("MODEL.DEPTH", "[1]", "int"),
        ("MODEL.RATE", "fast", "float"),
        ("MODEL.FROZEN", "maybe", "True or False"),
        ("MODEL.FROZEN", "2", "True or False"),
        ("MODEL.FROZEN", "1.0", "True or False"),
        ("MODEL.SIZES", "coco_val", "('coco_val',)"),
        ("MODEL.STEPS", "3", "(3,)"),
        ("MODEL.STEPS", "{'a': 1}", "tuple"),
        ("NAME", "[1]", "str"),
        ("MODEL", "3", "DEPTH"),
    ],
)
def test_merge_from_list_refuses_other_types(key, typed, hint):
    config = make_config()
    with pytest.raises(ConfigError) as caught:
        config.merge_from_list([key, typed])
    assert str(caught.value).startswith(f"{key} ") and hint in str(caught.value)
    assert config == make_config()


def test_merge_from_list_of_several_pairs_and_none():
    config = make_config()
    config.merge_from_list([])
    assert config == make_config()
    config.merge_from_list(["NAME", "a", "MODEL.DEPTH", "18"])
    assert config.NAME == "a" and config.MODEL.DEPTH == 18


@pytest.mark.parametrize("words", [["NAME"], ["NAME", "a", "MODEL.DEPTH"]])
def test_odd_number_of_words(words):
    with pytest.raises(ConfigError, match="KEY VALUE"):
        make_config().merge_from_list(words)


@pytest.mark.parametrize("words", [["MODEL.DEPTH=18"], ["MODEL.DEPTH=18", "NAME=a"]])
def test_equals_sign_is_explained(words):
    with pytest.raises(ConfigError, match="'MODEL.DEPTH 18', without '='"):
        make_config().merge_from_list(words)


def test_group_takes_a_dict_of_known_keys():
    config = make_config()
    config.merge_from_list(["MODEL", "{'DEPTH': 18, 'FROZEN': 'false'}"])
    assert config.MODEL.DEPTH == 18 and config.MODEL.FROZEN is False
    assert config.MODEL.RATE == 0.5
    with pytest.raises(ConfigError, match="MODEL.DEPHT"):
        config.merge_from_list(["MODEL", "{'DEPHT': 18}"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("TEST.EVAL_PEROID", "TEST.EVAL_PERIOD"),
        ("MODEL.FCOS.NUM_CLASS", "MODEL.FCOS.NUM_CLASSES"),
        ("FCOS.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES"),
        ("RESNETS.NUM_CLASSES", "MODEL.RESNETS.NUM_CLASSES"),
        ("FCOS.PRIOR_PROB", "MODEL.FCOS.PRIOR_PROB"),
        ("MODEL.FCOS.NMS_THRESH", "MODEL.FCOS.NMS_THRESH_TEST"),
        ("SOLVER.IMS_PER_BACH", "SOLVER.IMS_PER_BATCH"),
        ("SOLVER.MAX_ITER", "SOLVER.LR_SCHEDULER.MAX_ITER"),
        ("BASE_LR", "SOLVER.OPTIMIZER.BASE_LR"),
        ("OUTPUT_DIRECTORY", "OUTPUT_DIR"),
        ("solver.ims_per_batch", "SOLVER.IMS_PER_BATCH"),
        ("output_dir", "OUTPUT_DIR"),
    ],
)
def test_unknown_key_names_the_nearest(typed, meant):
    with pytest.raises(ConfigError) as caught:
        FCOSConfig().merge_from_list([typed, "1"])
    assert str(caught.value) == f"Non-existent key: {typed}. Did you mean {meant}?"


def test_unknown_key_without_a_near_one():
    with pytest.raises(ConfigError) as caught:
        make_config().merge_from_list(["XYZZY", "1"])
    assert str(caught.value) == "Non-existent key: XYZZY."


@pytest.mark.parametrize("key", ["NAME.SUB", "MODEL.DEPTH.SUB", "MODEL.SIZES.0", "MODEL."])
def test_key_below_a_value_does_not_exist(key):
    with pytest.raises(ConfigError, match="Non-existent key"):
        make_config().merge_from_list([key, "1"])


def test_override_reports_all_errors_at_once():
    with pytest.raises(ConfigError) as caught:
        make_config().override(
            {"NAM": "a", "MODEL.DEPTH": "deep", "NAME": "fine", "MODEL": {"RATE": "x", "SIZE": []}}
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for line, words in zip(
        lines, ["NAM. Did you mean NAME?", "DEPTH", "MODEL.RATE", "MODEL.SIZE"], strict=True
    ):
        assert words in line


def test_override_copies_values():
    config, sizes = make_config(), [[1], [2]]
    config.override({"MODEL.SIZES": sizes})
    config.MODEL.SIZES[0].append(9)
    assert sizes == [[1], [2]]


# -- reading -------------------------------------------------------------------------------------


def test_diff_holds_what_is_new_or_changed():
    config = make_config()
    config.MODEL.DEPTH = 18
    config.EXTRA = {"A": 1}
    other = make_config()
    other.ONLY_THERE = 1
    difference = config.diff(other)
    assert difference == {"MODEL": {"DEPTH": 18}, "EXTRA": {"A": 1}}
    assert difference.MODEL.DEPTH == 18
    assert make_config().diff(make_config()) == {}


def test_diff_does_not_tell_lists_from_tuples():
    config, other = make_config(), make_config()
    other.MODEL.SIZES = (1, 2)
    other.MODEL.STEPS = [1, 2]
    assert config.diff(other) == {}


def test_diff_is_a_copy():
    config = make_config()
    config.diff({}).MODEL.SIZES.append(5)
    assert config.MODEL.SIZES == [1, 2]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("depth", {"MODEL.DEPTH"}),
        ("S$", {"MODEL.SIZES", "MODEL.STEPS", "MODEL.WEIGHTS"}),
        ("name|rate", {"NAME", "MODEL.RATE"}),
        ("nothing", set()),
    ],
)
def test_find_returns_entries(pattern, names):
    found = make_config().find(pattern, show=False)
    assert set(found) == names
    assert found.get("MODEL.DEPTH", 50) == 50


def test_find_prints_a_table_with_the_match_coloured(capsys, monkeypatch):
    monkeypatch.setattr("termcolor.colored", lambda text, color: f"<{color} {text}>")
    assert make_config().find("depth", color="red") is None
    printed = capsys.readouterr().out
    assert "MODEL.<red DEPTH>" in printed and "50" in printed and "RATE" not in printed


def test_repr_is_a_table():
    lines = repr(make_config()).splitlines()
    assert lines[0].startswith("╒") and lines[-1].startswith("╘")
    assert lines[1].split("│")[1].strip() == "config params"
    assert lines[1].split("│")[2].strip() == "values"
    assert any("NAME" in line and "'base'" in line for line in lines)
    assert any("'DEPTH': 50" in line for line in lines)


def test_flatten_gives_plain_leaves():
    flat = dict(flatten(make_config()))
    assert flat["MODEL.STEPS"] == [1, 2] and flat["NAME"] == "base" and "MODEL" not in flat


# -- link_log ------------------------------------------------------------------------------------


def link_to(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    config = ConfigDict({"OUTPUT_DIR": str(output)})
    config.link_log()
    return tmp_path / "log"


@pytest.mark.parametrize("output", ["./output", "runs/first"])
def test_link_is_made(tmp_path, monkeypatch, output):
    log = link_to(tmp_path, monkeypatch, output)
    assert log.is_symlink() and log.resolve() == (tmp_path / output).resolve()


def test_link_to_an_absolute_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    log = link_to(tmp_path / "here", monkeypatch, tmp_path / "there")
    assert log.resolve() == tmp_path / "there"


@pytest.mark.parametrize("exists", [True, False], ids=["alive", "dangling"])
def test_link_that_points_elsewhere_is_replaced(tmp_path, monkeypatch, exists):
    if exists:
        (tmp_path / "old").mkdir()
    (tmp_path / "log").symlink_to("old")
    log = link_to(tmp_path, monkeypatch, "new")
    assert log.is_symlink() and log.resolve() == tmp_path / "new"


def test_right_link_stays(tmp_path, monkeypatch):
    (tmp_path / "log").symlink_to(tmp_path / "output")
    log = link_to(tmp_path, monkeypatch, "output")
    assert log.readlink() == tmp_path / "output"


def test_real_file_stays(tmp_path, monkeypatch):
    (tmp_path / "log").write_text("mine")
    assert link_to(tmp_path, monkeypatch, "output").read_text() == "mine"


def test_real_folder_stays(tmp_path, monkeypatch):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "file").write_text("mine")
    log = link_to(tmp_path, monkeypatch, "output")
    assert not log.is_symlink() and (log / "file").read_text() == "mine"


def test_link_has_the_given_name_and_folder(tmp_path):
    (tmp_path / "experiment").mkdir()
    config = ConfigDict({"OUTPUT_DIR": str(tmp_path / "output")})
    config.link_log("latest", folder=tmp_path / "experiment")
    assert (tmp_path / "experiment" / "latest").resolve() == tmp_path / "output"


def test_link_that_cannot_be_made_warns(tmp_path):
    config = ConfigDict({"OUTPUT_DIR": str(tmp_path / "output")})
    with pytest.warns(UserWarning, match="Could not link"):
        config.link_log(folder=tmp_path / "missing")
