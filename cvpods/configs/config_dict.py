"""ConfigDict: a nested dict with attribute access, strict overrides and a readable printout."""

from __future__ import annotations

import ast
import copy
import difflib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from cvpods.configs.old_keys import migrate_old_keys
from cvpods.utils.errors import ConfigError


class ConfigDict(dict):
    """Configuration in which `cfg.MODEL.DEVICE` and `cfg["MODEL"]["DEVICE"]` are the same value.

    Nested dicts become EasyDicts. Everything merged in is copied, so two configurations never
    share a list or a dict. Functions may be values (`cfg.build_backbone = build_backbone`).
    Class attributes of a subclass become entries too.
    """

    def __init__(self, d: Mapping | None = None, **kwargs: Any) -> None:
        super().__init__()
        for cls in reversed(type(self).__mro__):
            if issubclass(cls, ConfigDict) and cls.__module__.split(".")[0] != "cvpods":
                own = {k: v for k, v in vars(cls).items() if not k.startswith("_")}
                self.merge(own)
        self.merge(d, **kwargs)

    # -- dict with attributes ------------------------------------------------------------------

    def __getattribute__(self, key: str) -> Any:
        # An entry wins over the class attribute that it came from; methods stay bound.
        if dict.__contains__(self, key) and not hasattr(ConfigDict, key):
            value = dict.__getitem__(self, key)
            if getattr(type(self), key, None) is not value:
                return value
        return super().__getattribute__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, EasyDict(value) if isinstance(value, Mapping) else value)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no key '{key}'") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        del self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Like dict.update: replace top-level entries."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    # -- merging -------------------------------------------------------------------------------

    def merge(self, config: Mapping | None = None, **kwargs: Any) -> None:
        """Merge nested dicts into this one: add new keys; `kwargs` win over `config`."""
        for source in (config or {}, kwargs):
            _merge_into(self, source)

    def _register_configuration(self, config: Mapping) -> None:
        """Merge the defaults of a config class, in old or new spelling.

        A key that looks like a misspelling of a known one is kept, with a warning.
        """
        config = migrate_old_keys(config, self)
        known = set(leaves(self))
        groups = {key.rpartition(".")[0] for key in known}
        for key in leaves(config):
            if key in known or key.rpartition(".")[0] not in groups:
                continue
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.93)
            if near and near[0] not in dict.fromkeys(leaves(config)):
                warnings.warn(
                    f"Unknown key {key} has no effect. Did you mean {near[0]}?", stacklevel=3
                )
        self.merge(config)

    def override(self, values: Mapping[str, Any]) -> None:
        """Set existing keys, given by dotted name, to values of the same type.

        Raises:
            ConfigError: the message names every unknown key (with the nearest known one) and every
                value of the wrong type.
        """
        errors = []
        for name, value in values.items():
            try:
                self._override_one(name, value)
            except ConfigError as error:
                errors.append(str(error))
        if errors:
            raise ConfigError("\n".join(errors))

    def _override_one(self, name: str, value: Any) -> None:
        """Set an existing key, or several keys of a group, given by dotted name."""
        *parents, leaf = name.split(".")
        parent: Any = self
        node: Any = self
        for part in (*parents, leaf):
            if not isinstance(node, Mapping) or part not in node:
                raise ConfigError(f"Non-existent key: {name}.{self._nearest_key(name)}")
            parent, node = node, node[part]
        if isinstance(node, Mapping):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name} is a group of keys; got {value!r}. {_subkeys(node)}")
            self.override({f"{name}.{key}": item for key, item in value.items()})
        else:
            parent[leaf] = copy.deepcopy(check_type(name, node, value))

    def _nearest_key(self, name: str) -> str:
        """Return ' Did you mean X?' for the nearest known key, or '' if none is near."""
        known, name = list(leaves(self)), name.upper()
        last = name.rpartition(".")[2]
        same_leaf = [key for key in known if key.rpartition(".")[2] == last]
        near = difflib.get_close_matches(name, same_leaf or known, n=1, cutoff=0.5)
        near = near or same_leaf[:1]
        return f" Did you mean {near[0]}?" if near else ""

    def merge_from_list(self, opts: Sequence[str]) -> None:
        """Override keys by `["KEY", "VALUE", ...]` as typed on a command line.

        A value that is not a Python literal is a string. Booleans may be written true/false/1/0.

        Raises:
            ConfigError: the number of words is odd, a key is unknown, or a value is of the wrong
                type.
        """
        joined = [word for word in opts[::2] if "=" in str(word)]
        if len(opts) % 2 or joined:
            hint_text = f" Write {joined[0].replace('=', ' ', 1)!r}, without '='." if joined else ""
            raise ConfigError(f"Overrides are KEY VALUE pairs; got {' '.join(opts)!r}.{hint_text}")
        now = leaves(self)
        self.override(
            {
                key: _parse(value, now.get(key))
                for key, value in zip(opts[::2], opts[1::2], strict=True)
            }
        )

    # -- reading -------------------------------------------------------------------------------

    def diff(self, other: Mapping) -> ConfigDict:
        """Return the entries of this configuration that are absent from or different in `other`."""
        return ConfigDict(_difference(self, other))

    def find(self, key: str, show: bool = True, color: str = "yellow") -> dict | None:
        """Print (or return, with show=False) all entries whose name matches the regex `key`."""
        from termcolor import colored

        pattern = re.compile(key.upper())
        found = {k: v for k, v in leaves(self).items() if pattern.search(k)}
        if not show:
            return found
        rows = [(pattern.sub(lambda m: colored(m.group(), color), k), v) for k, v in found.items()]
        print(_table(rows))
        return None

    def __repr__(self) -> str:
        import pprint

        return _table([(k, pprint.pformat(_plain(v))) for k, v in self.items()])

    def link_log(self, link_name: str = "log", folder: str | Path = ".") -> None:
        """Make `folder`/`link_name` a link to OUTPUT_DIR; a real file of that name stays."""
        link, target = Path(folder) / link_name, Path(self.OUTPUT_DIR).resolve()
        if link.is_symlink():
            if link.resolve() == target:
                return
            link.unlink()
        if link.exists():
            return
        try:
            link.symlink_to(os.path.relpath(target, link.parent.resolve()))
        except OSError as error:  # a read-only folder, or a file system without links
            warnings.warn(f"Could not link {link} to {target}: {error}", stacklevel=2)


def _merge_into(target: Any, source: Mapping) -> None:
    """Merge copies of the values of nested dicts into `target`."""
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
            _merge_into(target[key], value)
        else:
            target[key] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)


def leaves(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """Return {dotted name: value} of every value that is not itself a non-empty dict."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _difference(left: Mapping, right: Mapping) -> dict[str, Any]:
    """Return the entries of `left` that `right` lacks or that differ there."""
    result: dict[str, Any] = {}
    for key, value in left.items():
        if key not in right:
            result[key] = value
        elif isinstance(value, Mapping) and isinstance(right[key], Mapping):
            if inner := _difference(value, right[key]):
                result[key] = inner
        elif _plain(value) != _plain(right[key]):
            result[key] = value
    return result


def _plain(value: Any) -> Any:
    """Return nested EasyDicts as dicts and tuples as lists, to be compared or printed."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _subkeys(group: Mapping) -> str:
    """Return a sentence with the names of a group's keys."""
    return f"Its keys: {', '.join(group)}."


def _parse(text: Any, old: Any = None) -> Any:
    """Return a typed word as a Python literal; a number for a text key stays as it was typed."""
    if not isinstance(text, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return text if isinstance(old, str) and type(value) in (int, float) else value


_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def check_type(name: str, old: Any, new: Any) -> Any:
    """Return `new` as the type of `old`, the current value of the key `name`; None stays None.

    Raises:
        ConfigError: `new` is of another type.
    """
    if old is None or new is None or (callable(old) and callable(new)):
        return new
    kind = type(old).__name__
    article = "an" if kind.startswith("i") else "a"
    wrong = ConfigError(f"{name} must be {article} {kind} (currently {old!r}); got {new!r}.")
    if isinstance(old, bool):
        value = _BOOLEANS.get(str(new).lower(), new)
        if value in (True, False) and not isinstance(value, float):
            return bool(value)
        raise ConfigError(f"{wrong} Write True or False.")
    if isinstance(old, (int, float)):
        return _checked_number(old, new, wrong)
    if isinstance(old, str):
        if isinstance(new, (str, int, float, os.PathLike)) and not isinstance(new, bool):
            return str(new)
        raise wrong
    if isinstance(old, (list, tuple)):
        if isinstance(new, (list, tuple)):
            return type(old)(new)
        raise ConfigError(f"{wrong} Write a list, for example: {name} {_in_shell(f'({new!r},)')}")
    return new


def _in_shell(word: str) -> str:
    """Return a word as it is typed in a shell."""
    import shlex

    return shlex.quote(word) if any(sign in word for sign in '"$`\\!') else f'"{word}"'


def _checked_number(old: int | float, new: Any, wrong: ConfigError) -> int | float:
    """Return `new` as the type of the number `old`; raise `wrong` if it is not such a number."""
    if isinstance(new, bool) or not isinstance(new, (int, float)):
        raise wrong
    if isinstance(old, float):
        return float(new)
    if float(new).is_integer():
        return int(new)
    raise ConfigError(f"{wrong} Write a whole number.")


def _table(rows: Sequence[tuple]) -> str:
    """Return (name, value) pairs as a table."""
    from tabulate import tabulate

    return tabulate(rows, headers=["config params", "values"], tablefmt="fancy_grid")


def flatten(config: Mapping) -> Iterator[tuple[str, Any]]:
    """Iterate over (dotted name, value); values are plain lists and numbers."""
    return ((key, _plain(value)) for key, value in leaves(config).items())
