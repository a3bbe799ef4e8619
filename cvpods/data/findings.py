"""Kinds of findings in a data set, each with its severity, advice and repair, and their report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tabulate import tabulate

MANY_BOXES = 1000
_EXAMPLES = 3


class Kind(NamedTuple):
    """One kind of finding.

    severity: training and evaluation refuse an "error"; a "warning" is probably a mistake, or the
        loader leaves it out; a "note" is for information only.
    advice: the probable cause and what to do; "" if the name of the kind is enough.
    fix: "repaired" or "left out" by pods_check --fix; "" if --fix does not change it.
    """

    severity: str
    advice: str = ""
    fix: str = ""


_TABLE: dict[str, Kind] = {
    # -- errors: the file cannot be used as it is --------------------------------------------------
    "malformed record": Kind("error", "", "left out"),
    "missing size": Kind(
        "error", "pods_check --fix FILE reads it from the image file.", "repaired"
    ),
    "id of another type": Kind(
        "error", "pods_check --fix FILE writes the id with the type in the other table.", "repaired"
    ),
    "duplicate image id": Kind(
        "error",
        "The file does not tell to which of the images an annotation belongs; --fix leaves all of "
        "them out, unless they name the same file.",
        "left out",
    ),
    "duplicate category id": Kind(
        "error",
        "The file does not tell which of the classes a box has; --fix does not write a file, "
        "unless the classes have the same name.",
        "left out",
    ),
    "unknown image id": Kind("error", "", "left out"),
    "unknown category id": Kind("error", "", "left out"),
    "malformed box": Kind("error", "pods_check --fix FILE leaves such boxes out.", "left out"),
    "annotation without a box": Kind(
        "error",
        "A detector learns from boxes. pods_check --fix FILE computes them from polygons, and "
        "leaves out annotations without polygons (keypoints, run lengths).",
        "repaired from polygons or left out",
    ),
    "malformed flag": Kind(
        "error",
        "iscrowd and ignore must be 0, 1, true or false; --fix removes other values.",
        "repaired",
    ),
    "NUM_CLASSES": Kind(
        "error",
        "Set the NUM_CLASSES of the method, for example MODEL.ATSS.NUM_CLASSES, to the number of "
        "classes in the data set.",
    ),
    "missing file": Kind("error", "", "left out"),
    "corrupt file": Kind("error", "", "left out"),
    "other size than annotated": Kind(
        "error",
        "The boxes may belong to another version of the image. If the annotated size is the size "
        "before the EXIF orientation is applied, write the images upright and export the boxes "
        "again.",
        "left out",
    ),
    "no image at all": Kind("error"),
    "no box at all": Kind("error"),
    # -- warnings: probably a mistake, or left out by the loader -----------------------------------
    "boxes in another format": Kind(
        "warning",
        "COCO's boxes are x, y, width, height in pixels. Convert the boxes: pods_check --boxes "
        "FORMAT --fix FILE, with the format named here, and look at some of them with pods_draw.",
    ),
    "file names in another notation": Kind(
        "warning",
        "These files exist under their names with / for \\ and with %20 decoded, and are read; "
        "--fix writes these names.",
        "repaired",
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
        "The loader applies the EXIF orientation before the boxes are used. Check with pods_draw "
        "that the boxes were drawn on turned images.",
    ),
    "images of different depths": Kind(
        "warning",
        "One white level applies to the complete data set, so these images become dark. Convert "
        "all images to one depth.",
    ),
    "few of the bits used": Kind(
        "warning",
        "The values of these 16-bit or float images end far below the largest possible one. "
        "INPUT.WHITE_LEVEL auto scales by the data set's highest value; a number sets the level.",
    ),
    "48-bit colours": Kind(
        "warning", "Only the upper 8 bits of each channel are read. Convert the images to 8 bits."
    ),
    "values below 0": Kind(
        "warning", "Pixels below 0 become black. Shift the values before training."
    ),
    "duplicate annotation id": Kind(
        "warning", "Each annotation counts as an object; --fix assigns other ids.", "repaired"
    ),
    "NaN or infinite box": Kind("warning", "The loader leaves these boxes out.", "left out"),
    "zero or negative box": Kind(
        "warning",
        "The loader leaves these boxes out; --fix reverses negative sizes.",
        "repaired or left out",
    ),
    "box outside the image": Kind("warning", "Training leaves these boxes out.", "left out"),
    "box of an image that is left out": Kind("note", "", "left out"),
    "duplicate category name": Kind(
        "warning", "They remain two classes; per-class results name their ids."
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
        "training may not assign any location to them. Use larger images or crops.",
    ),
    # -- notes: for information --------------------------------------------------------------------
    "number written as text": Kind("note", "It is read as the number.", "repaired"),
    "id written as float": Kind("note", "It is read as the whole number.", "repaired"),
    "missing annotation id": Kind(
        "note", "Training and evaluation do not need these ids; --fix assigns them.", "repaired"
    ),
    "area from the box": Kind(
        "note", "'area' is not a positive number; the box's own area is used.", "repaired"
    ),
    "box partly outside": Kind("note", "Training clips it.", "repaired"),
    "image without boxes": Kind("note"),
    f"more than {MANY_BOXES:,} boxes": Kind("note"),
    "crowd box": Kind("note"),
}
_SEVERITIES = ("error", "warning", "note")
_FILES = ("missing file", "corrupt file", "other size than annotated")


@dataclass
class Report:
    """The findings in a data set, and how much of it was examined.

    Attributes:
        found: {kind: [location, ...]}.
        lenient: kinds that count as warnings in this data set although they are errors elsewhere.
    """

    name: str
    images: int = 0
    boxes: int = 0
    per_class: dict[str, int] = field(default_factory=dict)
    files_read: int = 0
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lenient: set[str] = field(default_factory=set)

    def add(self, kind: str, where: str) -> None:
        """Record a finding.

        Raises:
            KeyError: the kind is not in the table.
        """
        _TABLE[kind]
        self.found[kind].append(where)

    def severity(self, kind: str) -> str:
        """Return "error", "warning" or "note"."""
        return "warning" if kind in self.lenient else _TABLE[kind].severity

    def kinds(self, severity: str) -> list[str]:
        """Return the kinds found that have this severity, in the order of the table."""
        return [k for k in _TABLE if self.found.get(k) and self.severity(k) == severity]

    def count(self, severity: str) -> int:
        """Return the number of findings with this severity."""
        return sum(len(self.found[kind]) for kind in self.kinds(severity))

    def unusable_files(self) -> int:
        """Return the number of images whose files cannot be used."""
        return sum(len(self.found.get(kind, ())) for kind in _FILES)

    def tolerate_files(self, share: float) -> None:
        """Count unusable files as warnings if they are one, or at most `share` of the images."""
        if self.unusable_files() <= max(1, share * (self.images + self.unusable_files())):
            self.lenient.update(_FILES)

    def errors(self) -> str:
        """Return one or two sentences for each kind of error."""
        return " ".join(_describe(kind, self.found[kind]) for kind in self.kinds("error"))

    def fixed(self) -> list[str]:
        """Return the changes by pods_check --fix, a line per kind: "3 repaired: malformed flag"."""
        return [
            f"{len(self.found[kind]):,} {_TABLE[kind].fix}: {kind}"
            for kind in _TABLE
            if self.found.get(kind) and _TABLE[kind].fix
        ]

    def __str__(self) -> str:
        """Return the table of findings, and the advice for each kind."""
        kinds = [(severity, kind) for severity in _SEVERITIES for kind in self.kinds(severity)]
        rows = [(s, kind, len(self.found[kind]), _examples(self.found[kind])) for s, kind in kinds]
        head = (
            f"{self.name}: {self.images:,} images, {self.boxes:,} boxes, {self.files_read:,} image "
            "files read"
        )
        classes = ", ".join(f"{name} {count:,}" for name, count in self.per_class.items())
        table = tabulate(rows, headers=["", "what", "count", "where"]) if rows else "Nothing wrong."
        advice = [f"{kind}: {_TABLE[kind].advice}" for _, kind in kinds if _TABLE[kind].advice]
        lines = [head, f"Boxes by class: {classes or 'none'}", "", table]
        return "\n".join([*lines, "", *advice] if advice else lines)


def _describe(kind: str, where: Sequence[str]) -> str:
    """Return a kind of finding in words: the count, the first locations, and the advice."""
    count = f" ({len(where):,})" if len(where) > 1 else ""
    return f"{kind}{count}: {_examples(where, 200)}. {_TABLE[kind].advice}".rstrip()


def _examples(where: Sequence[str], length: int = 60) -> str:
    text = "; ".join(_shorten(w, length) for w in where[:_EXAMPLES])
    return text + ("; ..." if len(where) > _EXAMPLES else "")


def _shorten(text: str, length: int) -> str:
    """Return a text of at most `length` characters, without the middle if it is longer."""
    half = length // 2 - 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
