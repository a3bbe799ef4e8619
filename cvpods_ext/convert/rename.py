"""Pairs of name patterns: one table renames a network's tensors in both directions."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Rename:
    """One of our names and theirs for the same tensor.

    "#" stands for a number, a final "*" for the rest of the name; both sides have the same.

        Rename("res2.#.conv1.weight", "layer1.#.conv1.weight")
    """

    def __init__(self, ours: str, theirs: str) -> None:
        self.ours, self.theirs = ours, theirs
        self._patterns = _compile(ours), _compile(theirs)

    def to_ours(self, name: str) -> str | None:
        """Our name for their `name`, None where the pattern is another."""
        return _fill(self._patterns[1].fullmatch(name), self.ours)

    def to_theirs(self, name: str) -> str | None:
        """Their name for our `name`, None where the pattern is another."""
        return _fill(self._patterns[0].fullmatch(name), self.theirs)


def _compile(pattern: str) -> re.Pattern[str]:
    parts = {"#": r"(\d+)", "*": "(.+)"}
    return re.compile("".join(parts.get(c, re.escape(c)) for c in re.split("([#*])", pattern)))


def _fill(match: re.Match[str] | None, pattern: str) -> str | None:
    if match is None:
        return None
    values = iter(match.groups())
    return "".join(next(values) if c in "#*" else c for c in re.split("([#*])", pattern) if c)


def resnet(
    ours: str, theirs: str, stem: str = "", offset: str = "conv2.conv_offset"
) -> list[Rename]:
    """A ResNet under our prefix, and under theirs with torchvision's names (layer1.0.bn1).

    Args:
        stem: their further prefix of conv1 and bn1.
        offset: their name of the convolution that predicts a deformable one's offsets.
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


def numbered(ours: Sequence[str], theirs: Sequence[str]) -> list[Rename]:
    """Modules by name, one to one, with everything below them."""
    pairs = zip(ours, theirs, strict=True)
    return [Rename(f"{first}.*", f"{second}.*") for first, second in pairs]
