"""Registries: objects that may be registered twice."""

import pytest

from cvpods.utils.registry import Registry


def test_an_experiment_that_is_loaded_twice():
    """Its classes have the same names and its dicts are equal: new objects replace old ones."""
    registry = Registry("things")
    for _ in range(2):
        made = type("Own", (), {"__module__": "config"})
        route = {"own": {"train": ("images", "file.json")}}
        registry.register(made)
        registry.register(route, "OWN")
        assert registry.get("Own") is made and registry.get("OWN") is route


@pytest.mark.parametrize("other", [{"own": {}}, 3, type("Own", (), {"__module__": "elsewhere"})])
def test_another_object_of_the_name(other):
    registry = Registry("things")
    registry.register({"own": {"train": 1}}, "OWN")
    with pytest.raises(AssertionError, match="already holds an object named 'OWN'"):
        registry.register(other, "OWN")
