"""Kinds of findings in a data set: how grave each is, what to do, and what --fix does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tabulate import tabulate

MANY_BOXES = 1000
_EXAMPLES = 3


class Kind(NamedTuple):
    """One kind of finding.

    gravity: an "error" is refused by training and evaluation; a "warning" is probably a mistake, or
    is left out by the loader; a "note" is only worth knowing.
    advice: what it probably is and what to do; "" where the name of the kind says enough.
    fix: "mended" or "left out" by pods_check --fix; "" where --fix leaves it as it is.
    """

    gravity: str
    advice: str = ""
    fix: str = ""


_TABLE: dict[str, Kind] = {
    # -- the file cannot be used as it is ----------------------------------------------------------
    "malformed record": Kind("error", "", "left out"),
    "missing size": Kind("error", "pods_check --fix FILE reads it from the image file.", "mended"),
    "id of another type": Kind(
        "error", "pods_check --fix FILE writes the id as the other table has it.", "mended"
    ),
    "duplicate image id": Kind(
        "error",
        "Nobody can say which of the images an annotation means; --fix leaves all of them out, "
        "unless they name the same file.",
        "left out",
    ),
    "duplicate category id": Kind(
        "error",
        "Nobody can say which of the classes a box has; --fix writes nothing, unless they have the "
        "same name.",
        "left out",
    ),
    "unknown image id": Kind("error", "", "left out"),
    "unknown category id": Kind("error", "", "left out"),
    "malformed box": Kind("error", "pods_check --fix FILE leaves such boxes out.", "left out"),
    "annotation without a box": Kind(
        "error",
        "A detector learns boxes. pods_check --fix FILE computes them from polygons, and leaves "
        "annotations out that have none (keypoints, run lengths).",
        "mended from polygons or left out",
    ),
    "malformed flag": Kind(
        "error", "iscrowd and ignore are 0, 1, true or false; --fix removes others.", "mended"
    ),
    "NUM_CLASSES": Kind(
        "error", "Set the NUM_CLASSES of the method, MODEL.ATSS.NUM_CLASSES for example, to that."
    ),
    "missing file": Kind("error", "", "left out"),
    "corrupt file": Kind("error", "", "left out"),
    "other size than annotated": Kind(
        "error",
        "The boxes may belong to another version of the image. Where the annotated size is that "
        "before EXIF turns the image, write the images upright and export the boxes again.",
        "left out",
    ),
    "no image at all": Kind("error"),
    "no box at all": Kind("error"),
    # -- probably a mistake, or left out by the loader ---------------------------------------------
    "boxes in another format": Kind(
        "warning",
        "COCO's boxes are x, y, width, height in pixels. Convert them: pods_check --boxes FORMAT "
        "--fix FILE, with the format that is named, and look at some with pods_draw.",
    ),
    "file names in another notation": Kind(
        "warning",
        "With / for \\ and decoded %20 these files are found, and read; --fix writes the names so.",
        "mended",
    ),
    "one file under two ids": Kind(
        "warning",
        "The image was probably annotated twice or merged twice; its objects count twice.",
    ),
    "the same box twice": Kind(
        "warning", "Each copy counts as an object; --fix keeps one of them.", "left out"
    ),
    "EXIF orientation": Kind(
        "warning",
        "Images are turned as EXIF says before boxes are applied. Check with pods_draw that the "
        "boxes were drawn on turned images.",
    ),
    "images of different depths": Kind(
        "warning",
        "One white level holds for the data set, so that these images become dark. Convert all "
        "images to one depth.",
    ),
    "few of the bits used": Kind(
        "warning",
        "The values of these 16-bit or float images end far below the largest possible one. "
        "INPUT.WHITE_LEVEL auto scales by the data set's highest value; a number states it.",
    ),
    "48-bit colours": Kind(
        "warning", "Only the upper 8 bits of each channel are read. Convert the images to 8 bits."
    ),
    "values below 0": Kind("warning", "Pixels below 0 become black. Shift the values before."),
    "duplicate annotation id": Kind(
        "warning", "Each counts as an object; --fix gives them other ids.", "mended"
    ),
    "NaN or infinite box": Kind("warning", "The loader leaves these boxes out.", "left out"),
    "zero or negative box": Kind(
        "warning",
        "The loader leaves these boxes out; --fix turns negative sizes around.",
        "mended or left out",
    ),
    "box outside the image": Kind("warning", "Training leaves these boxes out.", "left out"),
    "box of an image that is left out": Kind("note", "", "left out"),
    "duplicate category name": Kind(
        "warning", "They stay two classes; per-class results name their ids."
    ),
    "class without boxes": Kind("warning", "The model cannot learn it; its AP is not defined."),
    "root class": Kind(
        "warning",
        "This class has no boxes and is the supercategory of others: the root that an exporter "
        "(Roboflow, for example) adds. --fix removes it; NUM_CLASSES is then one less.",
        "left out",
    ),
    "boxes below the finest stride": Kind(
        "warning",
        "After resizing, a side of these boxes is shorter than the distance between locations, so "
        "that training may assign none to them. Use larger images or crops.",
    ),
    # -- worth knowing -----------------------------------------------------------------------------
    "number written as text": Kind("note", "It is read as the number.", "mended"),
    "id written as float": Kind("note", "It is read as the whole number.", "mended"),
    "missing annotation id": Kind("note", "Nothing needs it here; --fix numbers them.", "mended"),
    "area from the box": Kind(
        "note", "'area' is not a positive number; the box's own area is used.", "mended"
    ),
    "box partly outside": Kind("note", "Training clips it.", "mended"),
    "image without boxes": Kind("note"),
    f"more than {MANY_BOXES:,} boxes": Kind("note"),
    "crowd box": Kind("note"),
}
KINDS = {name: kind.gravity for name, kind in _TABLE.items()}
_FILES = ("missing file", "corrupt file", "other size than annotated")


@dataclass
class Report:
    """The findings in a data set, {kind: [where, ...]}, and how much was looked at.

    Attributes:
        lenient: kinds that count as warnings in this data set although they are errors elsewhere.
    """

    name: str
    images: int = 0
    boxes: int = 0
    per_class: dict[str, int] = field(default_factory=dict)
    files_read: int = 0
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lenient: set[str] = field(default_factory=set)

    def add(self, kind: str, where: Any) -> None:
        """Record a finding. Raises KeyError for a kind that is not in the table."""
        _TABLE[kind]
        self.found[kind].append(str(where))

    def gravity(self, kind: str) -> str:
        """Return "error", "warning" or "note"."""
        return "warning" if kind in self.lenient else KINDS[kind]

    def kinds(self, gravity: str) -> list[str]:
        """Return the kinds found that have this gravity, in the order of the table."""
        return [k for k in KINDS if self.found.get(k) and self.gravity(k) == gravity]

    def count(self, gravity: str) -> int:
        """Return the number of findings of a gravity."""
        return sum(len(self.found[kind]) for kind in self.kinds(gravity))

    def unusable_files(self) -> int:
        """Return the number of images whose files cannot be used."""
        return sum(len(self.found.get(kind, ())) for kind in _FILES)

    def tolerate_files(self, share: float) -> None:
        """Let training replace images whose files cannot be used: one, or `share` of the images."""
        if self.unusable_files() <= max(1, share * (self.images + self.unusable_files())):
            self.lenient.update(_FILES)

    def errors(self) -> str:
        """Return one sentence or two for each kind of error."""
        return " ".join(describe(kind, self.found[kind]) for kind in self.kinds("error"))

    def fixed(self) -> list[str]:
        """Return what pods_check --fix did, one line a kind: "3 mended: malformed flag"."""
        return [
            f"{len(self.found[kind]):,} {_TABLE[kind].fix}: {kind}"
            for kind in KINDS
            if self.found.get(kind) and _TABLE[kind].fix
        ]

    def __str__(self) -> str:
        """The table, and what to do about each kind."""
        gravities = ("error", "warning", "note")
        kinds = [(gravity, kind) for gravity in gravities for kind in self.kinds(gravity)]
        rows = [(g, kind, len(self.found[kind]), _examples(self.found[kind])) for g, kind in kinds]
        head = (
            f"{self.name}: {self.images:,} images, {self.boxes:,} boxes, {self.files_read:,} image "
            "files read"
        )
        classes = ", ".join(f"{name} {count:,}" for name, count in self.per_class.items())
        table = tabulate(rows, headers=["", "what", "count", "where"]) if rows else "Nothing wrong."
        advice = [f"{kind}: {_TABLE[kind].advice}" for _, kind in kinds if _TABLE[kind].advice]
        lines = [head, f"Boxes by class: {classes or 'none'}", "", table]
        return "\n".join([*lines, "", *advice] if advice else lines)


def describe(kind: str, where: Sequence[str]) -> str:
    """Return a kind of finding in words: how many, the first ones, and what to do."""
    count = f" ({len(where):,})" if len(where) > 1 else ""
    return f"{kind}{count}: {_examples(where, 200)}. {_TABLE[kind].advice}".rstrip()


def _examples(where: Sequence[str], length: int = 60) -> str:
    text = "; ".join(_shortened(w, length) for w in where[:_EXAMPLES])
    return text + ("; ..." if len(where) > _EXAMPLES else "")


def _shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters, without the middle of a longer one."""
    half = length // 2 - 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
