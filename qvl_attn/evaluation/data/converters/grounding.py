"""Convert COCO instances and RefCOCO-like records to the JSONL of questions and boxes that `qvl-attn check` reads.

    python -m qvl_attn.evaluation.data.converters.grounding coco instances.json --images val2017 --out questions.jsonl
    ... refcoco refs.json instances.json --images train2014 --out questions.jsonl

The pictures are not opened. RefCOCO's refs file is a pickle, which could run any code: export it to JSON first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import json_fault

Annotation = dict[str, Any]
NO_PICKLE = "is not JSON; a pickle is never read, because it can run any code: export it to JSON first"
NO_AREA = "a box without area"


def load(path: Path, message: str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is not JSON, which `message` says, or Python cannot read it.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {json_fault(error, message)}") from None


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """Return a required field of a record.

    Raises:
        InputError: the field is missing or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind:
        raise InputError(f"{where}: {name} is missing or is not of type {kind.__name__}")
    return value


def by_id(records: Any, where: str, name: str = "id") -> dict[int, Annotation]:
    """Return the records of a list by their number.

    Raises:
        InputError: it is not a list, or two records have the same number.
    """
    if not isinstance(records, list):
        raise InputError(f"{where}: is not a list")
    by_number: dict[int, Annotation] = {}
    for i, record in enumerate(records):
        number = field(record, name, int, f"{where}, record {i}")
        if number in by_number:
            raise InputError(f"{where}: {name} {number} is used twice")
        by_number[number] = record
    return by_number


class Instances:
    """A COCO instances file: the tables of its records, and the folder of its pictures."""

    def __init__(self, path: Path, images: Path) -> None:
        loaded = load(path, "is not JSON")
        tables = ("images", "annotations", "categories")
        self.tables = {name: by_id(field(loaded, name, list, str(path)), f"{path}, {name}") for name in tables}
        self.images = images

    def record(self, table: str, number: int, where: str) -> Annotation:
        """Return the record of a number in a table.

        Raises:
            InputError: there is none; `where` names the record that refers to it.
        """
        if number not in self.tables[table]:
            raise InputError(f"{where}: {number} is not among the {table}")
        return self.tables[table][number]

    def row(self, name: str, image: int, question: str, boxes: list[list[float]]) -> Annotation:
        """Return the JSONL row of one question."""
        file_name = field(self.record("images", image, f"{name}, image_id"), "file_name", str, f"image {image}")
        parts = PureWindowsPath(file_name)  # knows both slashes, and drives
        if not parts.name or parts.anchor or ".." in parts.parts:
            raise InputError(f"image {image}: file_name {file_name!r} is not inside the folder of pictures")
        row = {"id": name, "image": (self.images / file_name).as_posix(), "question": question}
        return row | {"boxes": boxes, "box_format": "xywh", "box_units": "px"}


def box_of(annotation: Annotation) -> list[float]:
    """Return the four numbers of an annotation's box, xywh in pixels.

    Raises:
        InputError: the box is not four finite numbers.
    """
    box = field(annotation, "bbox", list, f"annotation {annotation['id']}")
    if len(box) != 4 or not all(type(number) in (int, float) and math.isfinite(number) for number in box):
        raise InputError(f"annotation {annotation['id']}: bbox {box} is not four numbers")
    return list(box)


def coco_rows(instances: Instances, options: argparse.Namespace, left_out: Counter[str]) -> Iterator[Annotation]:
    """Yield one row for each picture and category. A pair with a crowd is left out, because a crowd has no boxes."""
    pairs: dict[tuple[int, int], list[Annotation]] = {}
    for number, annotation in instances.tables["annotations"].items():
        image, category = (field(annotation, key, int, f"annotation {number}") for key in ("image_id", "category_id"))
        pairs.setdefault((image, category), []).append(annotation)
    for (image, category), group in pairs.items():
        name, boxes = f"coco-{image}-{category}", [box_of(annotation) for annotation in group]
        if any(annotation.get("iscrowd") for annotation in group):
            left_out["a crowd"] += 1
        elif options.one_instance and len(group) > 1:
            left_out["more than one instance"] += 1
        elif any(min(box[2:]) <= 0 for box in boxes):
            left_out[NO_AREA] += 1
        else:
            record = instances.record("categories", category, f"{name}, category_id")
            phrase = field(record, "name", str, f"category {category}")
            yield instances.row(name, image, options.question.replace("{phrase}", phrase), boxes)


def refcoco_rows(
    refs: dict[int, Annotation], instances: Instances, options: argparse.Namespace, left_out: Counter[str]
) -> Iterator[Annotation]:
    """Yield one row for each sentence."""
    for number, ref in refs.items():
        where = f"ref {number}"
        annotation = instances.record("annotations", field(ref, "ann_id", int, where), f"{where}, ann_id")
        image, box = field(ref, "image_id", int, where), box_of(annotation)
        if image != annotation.get("image_id"):
            raise InputError(f"{where}: annotation {annotation['id']} does not belong to picture {image}")
        for i, sentence in enumerate(field(ref, "sentences", list, where)):
            key = "sent" if isinstance(sentence, dict) and "sent" in sentence else "raw"
            phrase = field(sentence, key, str, f"{where}, sentence {i}").strip()
            if options.split not in (None, ref.get("split")):
                left_out["another split"] += 1
            elif not phrase or min(box[2:]) <= 0:
                left_out[NO_AREA if phrase else "no words"] += 1
            else:
                question = options.question.replace("{phrase}", phrase)
                yield instances.row(f"refcoco-{number}-{i}", image, question, [box])


def convert(options: argparse.Namespace) -> str:
    """Write all rows, or no file at all, and return a line that reports the counts."""
    if "{phrase}" not in options.question:
        raise InputError(f"--question {options.question!r}: does not contain {{phrase}}")
    refuse_existing(options.out)
    left_out: Counter[str] = Counter()
    images = Path(os.path.relpath(options.images, options.out.parent))
    if ".." in images.parts:  # `check` rejects paths outside the folder of its file
        raise InputError(
            f"--out {options.out}: {options.images} is not below its folder",
            "write --out to a folder above the pictures",
        )
    if options.kind == "coco":
        rows = coco_rows(Instances(options.instances, images), options, left_out)
    else:
        refs = by_id(load(options.refs, NO_PICKLE), str(options.refs), "ref_id")
        rows = refcoco_rows(refs, Instances(options.instances, images), options, left_out)
    draft = options.out.with_name(f".draft-{os.getpid()}-{options.out.name}")
    try:
        # A lone surrogate cannot be encoded as UTF-8, but its escape is valid JSON.
        with draft.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as lines:
            count = sum(lines.write(json.dumps(row, ensure_ascii=False) + "\n") > 0 for row in rows)
        reasons = "".join(f", {number} for {reason}" for reason, number in left_out.most_common())
        message = f"{options.out}: {count} written, {left_out.total()} left out{reasons}"
        if not count:
            raise InputError(message)
        refuse_existing(options.out)
        draft.rename(options.out)
    finally:
        draft.unlink(missing_ok=True)
    return message


def refuse_existing(out: Path) -> None:
    """Refuse to overwrite a file.

    Raises:
        InputError: the file exists.
    """
    if os.path.lexists(out):
        raise InputError(f"--out {out}: already exists")


def main(arguments: list[str] | None = None) -> int:
    """Run the converter and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    coco = kinds.add_parser("coco", help="a question for each picture and category")
    coco.add_argument("--one-instance", action="store_true", help="only pictures with one instance of the category")
    refcoco = kinds.add_parser("refcoco", help="a question for each sentence of RefCOCO, RefCOCO+ or RefCOCOg")
    refcoco.add_argument("refs", type=Path, help="list of refs as JSON")
    refcoco.add_argument("--split", help="only the refs of this split")
    for kind, question in ((coco, "Where is the {phrase}?"), (refcoco, "Where is {phrase}?")):
        kind.add_argument("instances", type=Path, help="COCO instances file")
        kind.add_argument("--images", type=Path, required=True, help="folder of the pictures")
        kind.add_argument("--out", type=Path, required=True, help="JSONL file to write")
        kind.add_argument("--question", default=question, help="template of the question; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        print(convert(options))
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
