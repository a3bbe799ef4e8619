"""Pairs of name patterns: one table renames a network's tensors in both directions."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Rename:
    """Pair of patterns for the same tensors: this project's names and another framework's.

    "#" stands for a number, and "*" at the end for the rest of the name. Both patterns have the
    same placeholders in the same order:

        Rename("res2.#.conv1.weight", "layer1.#.conv1.weight")
    """

    def __init__(self, ours: str, theirs: str) -> None:
        self.ours, self.theirs = ours, theirs
        self._patterns = _compile(ours), _compile(theirs)

    def to_ours(self, name: str) -> str | None:
        """Return our name for their `name`; None if their pattern does not match it."""
        return _fill(self._patterns[1].fullmatch(name), self.ours)

    def to_theirs(self, name: str) -> str | None:
        """Return their name for our `name`; None if our pattern does not match it."""
        return _fill(self._patterns[0].fullmatch(name), self.theirs)


def _compile(pattern: str) -> re.Pattern[str]:
    parts = {"#": r"(\d+)", "*": "(.+)"}
    return re.compile("".join(parts.get(c, re.escape(c)) for c in re.split("([#*])", pattern)))


def _fill(match: re.Match[str] | None, pattern: str) -> str | None:
    """Replace the placeholders of a pattern by the groups of a match."""
    if match is None:
        return None
    values = iter(match.groups())
    return "".join(next(values) if c in "#*" else c for c in re.split("([#*])", pattern) if c)


def resnet(
    ours: str, theirs: str, stem: str = "", offset: str = "conv2.conv_offset"
) -> list[Rename]:
    """Return the table of a ResNet that has torchvision's names (layer1.0.bn1) elsewhere.

    Args:
        ours, theirs: prefixes of all names.
        stem: further prefix of their conv1 and bn1.
        offset: their name of the convolution that predicts the offsets of a deformable one.
    """
    pairs = [
        ("stem.conv1.weight", f"{stem}conv1.weight"),
        ("stem.conv1.norm.*", f"{stem}bn1.*"),
    ]
    for stage in range(2, 6):
        our_block, block = f"res{stage}.#", f"layer{stage - 1}.#"
        pairs.append((f"{our_block}.conv2_offset.*", f"{block}.{offset}.*"))
        for conv in range(1, 4):
            pairs.append((f"{our_block}.conv{conv}.weight", f"{block}.conv{conv}.weight"))
            pairs.append((f"{our_block}.conv{conv}.norm.*", f"{block}.bn{conv}.*"))
        pairs.append((f"{our_block}.shortcut.weight", f"{block}.downsample.0.weight"))
        pairs.append((f"{our_block}.shortcut.norm.*", f"{block}.downsample.1.*"))
    return [Rename(ours + first, theirs + second) for first, second in pairs]


def modules(ours: Sequence[str], theirs: Sequence[str]) -> list[Rename]:
    """Return the table of modules, paired by position, with everything below them."""
    pairs = zip(ours, theirs, strict=True)
    return [Rename(f"{first}.*", f"{second}.*") for first, second in pairs]
