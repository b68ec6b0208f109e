"""One thing has one name: on the terminal, in the page of a check, in the charts and in the README."""

from __future__ import annotations

import re
from pathlib import Path

from qvl_attn.cli.tables import GROUNDED, NAMES
from qvl_attn.render import charts

ROOT = Path(__file__).parents[2]
STRINGS = ROOT / "qvl_attn" / "render" / "html" / "assets" / "strings_check.js"


def page_words(language: str) -> dict[str, str]:
    english, chinese = STRINGS.read_text(encoding="utf-8").split("Object.assign(WORDS.zh")
    return dict(re.findall(r'^  (\w+): "([^"]*)"', {"en": english, "zh": chinese}[language], re.MULTILINE))


def readme_cells(name: str) -> set[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {cell.strip() for line in lines if line.startswith("|") for cell in line.split("|")}


def test_figures_have_one_name():
    page = page_words("en")
    for figure, name in NAMES.items():
        assert page[f"f_{figure}"] == name
        assert charts.TITLES[figure].startswith(name)
    assert all(charts.FIGURES[figure].startswith(NAMES[figure]) for figure in NAMES if figure in charts.FIGURES)
    cells = readme_cells("README.md")
    assert {"pointing game", "mass in the box", "IoU after Otsu", "share on vision"} <= cells & set(NAMES.values())


def test_a_map_is_grounded_or_not():
    page = page_words("en")
    assert {key: page[key] for key in GROUNDED} == GROUNDED
    assert {*GROUNDED.values()} <= readme_cells("README.md")


def test_chinese_words_are_those_of_the_chinese_readme():
    page, cells = page_words("zh"), readme_cells("README.zh-CN.md")
    for key in ("f_pointing", "f_mass", "f_lift", "f_iou", "f_vision_mass", "grounded", "elsewhere", "right", "wrong"):
        assert page[key] in cells, key
