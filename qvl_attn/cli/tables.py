"""The summary of a check and the faithfulness of a result, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from qvl_attn.cli.spelling import spelled
from qvl_attn.core.text import plain, pluralize

if TYPE_CHECKING:
    from qvl_attn.attribution.faithfulness import Curves
    from qvl_attn.attribution.similarity import Sanity

NAMES = {
    "pointing": "pointing game",
    "mass": "mass in the box",
    "lift": "lift over the area",
    "auc": "ROC-AUC",
    "iou": "IoU after Otsu",
    "vision_mass": "share on vision",
    "entropy": "entropy",
    "top10_share": "ten strongest cells",
    "spread": "spatial spread",
    "distance": "distance to the box",
}
BY_LAYER = {
    "pointing": "pointing",
    "mass": "mass",
    "lift": "lift",
    "auc": "ROC-AUC",
    "iou": "IoU",
    "vision_mass": "vision",
    "entropy": "entropy",
    "distance": "distance",
}
# Names in summary.json, and in words.
GROUNDED = {"grounded": "grounded", "elsewhere": "not grounded"}
MAX_HEADS = 8
WIDTHS = (10, 17, 9, 9, 9, 13, 12)


def check_table(summary: dict[str, Any], out: Path, profile: Path | None) -> str:
    """Return a summary as text for the terminal."""
    lines = [
        f"model      {summary['model']['name']} ({summary['model']['revision'][:12]}), {summary['model']['dtype']}",
        f"data       {summary['data']}: {pluralize(summary['samples'], 'sample')} about "
        f"{pluralize(summary['pictures'], 'picture or clip')}, "
        f"{summary['with_boxes']} with boxes, {pluralize(summary['errors'], 'error')}",
        f"headline   {summary['headline_map']}",
        "",
        *_headline(summary),
        "",
        *_answers(summary),
        "",
        *_layers(summary),
        *method_lines(summary),
        *_calibration(summary, profile),
    ]
    lines += [f"note: {spelled(note)}" for note in summary["notes"]]
    lines += [
        "",
        *(
            f"{name.removesuffix('.png').removesuffix('.html')}: {out / name}"
            for name in summary["files"]
            if "/" not in name
        ),
    ]
    if any(name.startswith("gallery/") and name.endswith(".png") for name in summary["files"]):
        lines.append(f"gallery: {out / 'gallery'}")
    return "\n".join(plain(line) for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(figure: dict[str, Any]) -> str:
    return f"[{_number(figure['low'])}, {_number(figure['high'])}]"


def _row(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _headline(summary: dict[str, Any]) -> list[str]:
    titles = ("headline", "95 % interval", "chance", "uniform", "centre", "other boxes", "all layers")
    lines = [f"{'':<21}" + _row(titles)]
    for name, words in NAMES.items():
        figure = summary["headline"].get(name)
        if figure and figure["mean"] is not None:
            cells = [_number(figure["mean"]), _interval(figure)]
            cells += [_number(figure[control]) for control in ("chance", "uniform", "centre", "other")]
            cells.append(_number(figure["all_layers"]["mean"]))
            lines.append(f"{words:<21}" + _row(cells))
    return lines


def _answers(summary: dict[str, Any]) -> list[str]:
    accuracy, counts = summary["accuracy"], summary["answers_and_grounding"]
    if not accuracy or accuracy["mean"] is None:
        return ["answers: no sample has one to compare with"]
    lines = [f"answers right: {accuracy['mean']:.3f} {_interval(accuracy)} of {accuracy['n']}"]
    total = sum(counts.values())
    if total:
        lines.append(f"{'':<10}" + "".join(f"{words:>18}" for words in GROUNDED.values()))
        for word in ("right", "wrong"):
            row = [counts[f"{word}_{where}"] for where in GROUNDED]
            lines.append(f"{word:<10}" + "".join(f"{f'{count} ({count / total:.1%})':>18}" for count in row))
    return lines


def _layers(summary: dict[str, Any]) -> list[str]:
    lines = ["layer  " + "".join(f"{words:>10}" for words in BY_LAYER.values())]
    for row in summary["layers"]:
        lines.append(f"{row['layer']:>5}  " + "".join(f"{_number(row[name]['mean']):>10}" for name in BY_LAYER))
    return lines


def _calibration(summary: dict[str, Any], profile: Path | None) -> list[str]:
    calibration = summary["calibration"]
    if not calibration or not calibration["ranking"]:
        return []
    lines = ["", f"{'ranked on the first half':<26}{'first half':>22}{'second half':>22}"]
    lines.append(f"{'':<26}" + 2 * f"{'pointing':>12}{'lift':>10}")
    rows = [("mean of all layers", calibration["all_layers"])]
    rows += [(f"layer {row['layer']}", row) for row in calibration["ranking"]["layers"]]
    rows += [(f"head {row['layer']}.{row['head']}", row) for row in calibration["ranking"]["heads"][:MAX_HEADS]]
    for name, row in rows:
        halves = (row["first_half"], row["second_half"])
        lines.append(f"{name:<26}" + "".join(f"{half['pointing']:>12.3f}{half['lift']:>10.2f}" for half in halves))
    pointing, lift = (summary["headline"][name]["over_all_layers"] for name in ("pointing", "lift"))
    lines.append(
        f"profile minus mean of all layers, second half: pointing {pointing['mean']:+.3f} {_interval(pointing)}, "
        f"lift {lift['mean']:+.2f} {_interval(lift)}"
    )
    lines.append(f"profile: {profile}")
    return lines


GROUNDING = {"pointing": "pointing", "lift": "lift", "auc": "ROC-AUC", "iou": "IoU"}
FAITHFUL = {
    "deletion_blur": "deletion, blur",
    "deletion_mean": "deletion, mean",
    "insertion_blur": "insertion, blur",
    "insertion_mean": "insertion, mean",
}
SANITY = {"weights": "scrambled weights", "question": "another question", "picture": "another picture"}
NAME_WIDTH, WIDTH = 20, 24


def method_lines(summary: dict[str, Any]) -> list[str]:
    """Return tables of each method: grounding, deletion and insertion, and sanity checks, where they were measured."""
    table = summary["methods"]
    lines = _table("method", table, GROUNDING)
    if lines:
        chances = [_chance(table, name) for name in GROUNDING]
        lines.append(f"{'chance':<{NAME_WIDTH}}" + "".join(f"{chance:>{WIDTH}}" for chance in chances))
    lines += _table("area, nats", table, FAITHFUL)
    paired = {
        method: {name: figure["over_random"] for name, figure in figures.items() if "over_random" in figure}
        for method, figures in table.items()
    }
    lines += _table("minus random order", paired, FAITHFUL)
    ranks = {f"{name}_rank": words for name, words in SANITY.items()}
    return lines + _table("rank correlation", table, ranks)


def _table(title: str, table: dict[str, Any], columns: dict[str, str]) -> list[str]:
    rows = [(name, figures) for name, figures in table.items() if any(column in figures for column in columns)]
    if not rows:
        return []
    lines = ["", f"{title:<{NAME_WIDTH}}" + "".join(f"{words:>{WIDTH}}" for words in columns.values())]
    for name, figures in rows:
        cells = (_cell(figures.get(column)) for column in columns)
        lines.append(f"{name:<{NAME_WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    return lines


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["mean"] is None:
        return "-"
    interval = [] if figure["low"] is None else [f"[{figure['low']:.2f}, {figure['high']:.2f}]"]
    return " ".join([f"{figure['mean']:.3f}", *interval])


def _chance(table: dict[str, Any], name: str) -> str:
    values = [figures[name]["chance"] for figures in table.values() if figures.get(name, {}).get("chance") is not None]
    return f"{median(values):.3f}" if values else "-"  # a map without attention has no chance value


def faithfulness_lines(curves: Curves | None, sanity: Mapping[str, Sanity]) -> list[str]:
    """Return the figures of `faithfulness.png` as lines of text."""
    from qvl_attn.attribution.faithfulness import FILLS, KINDS

    lines = []
    if curves is None:
        lines.append("faithfulness: the answer has no text whose probability could change")
    else:
        figures = curves.figures()
        for kind, better in zip(KINDS, ("lower", "higher"), strict=True):
            for fill in FILLS:
                parts = [f"{name} {areas[f'{kind}_{fill}']:.2f}" for name, areas in figures.items()]
                lines.append(f"{kind}, {fill} fill ({better} is better, nats): {', '.join(parts)}")
    for name, checks in sanity.items():
        for row in (*checks.weights, checks.question, checks.picture):
            values = ["-" if value is None else f"{value:.2f}" for value in (row.rank_correlation, row.ssim)]
            lines.append(f"{name} with {row.label}: rank correlation {values[0]}, SSIM {values[1]}")
    return lines
