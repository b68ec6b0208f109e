"""A kind of result that nobody else knows is saved, found, loaded, drawn, filmed and reported like the others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import kinds
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.kinds import read_saved
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.model.token_grid import grid_of
from qvl_attn.render.overlay import color_table
from qvl_attn.render.style import Drawing
from qvl_attn.report import make_report
from qvl_attn.results.record import MapSelection, Provenance
from qvl_attn.vqa.result import Result
from tests.helpers.kept import write_kept
from tests.helpers.pages import Reader
from tests.helpers.third_kind import Rings, RingSettings

PROVENANCE = Provenance("0.1.0", "5.0", "2.9", "rings", "0" * 40, "float32", "cpu")
GREYS = (40, 80, 120, 160)
SMALL = Drawing(draw_size_px=160, denoise="median")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, Rings))


def rings(*media: Media, clip: bool = False) -> Rings:
    grids = tuple(grid_of((2 if clip else 1, 6, 8), 1, 0, medium) for medium in media)
    y, x = np.mgrid[:6, :8]
    distance = np.hypot(y - 2.5, x - 3.5)
    ring = [np.exp(-((distance - radius) ** 2)) for radius in (0, 1, 2, 3)]
    cells = sum(grid.cells for grid in grids) // 48
    values = np.array([[np.tile(ring[layer + query], (cells, 1)).ravel() for query in (0, 1)] for layer in range(3)])
    settings = RingSettings(clip=ClipSettings() if clip else None)
    values = (values / values.sum(axis=-1, keepdims=True)).astype(np.float32)
    return Rings(media=media, settings=settings, provenance=PROVENANCE, grids=grids, values=values)


def picture(name: str) -> Media:
    frames = np.full((1, 60, 80, 3), 90, np.uint8)
    return Media("picture", frames, np.zeros(1), (80, 60), name, "1" * 64)


def clip() -> Media:
    facts = ClipFacts(0.0, 2.0, 2.0, 2.0, (0, 1, 2, 3), 4, 4)
    frames = np.stack([np.full((60, 80, 3), grey, np.uint8) for grey in GREYS])
    return Media("clip", frames, np.arange(4) / 2, (80, 60), "a.mp4", "2" * 64, clip=facts)


def test_pictures_are_saved_loaded_and_drawn(tmp_path):
    result = rings(picture("a.png"), picture("b.png"))
    folder = result.save(tmp_path, SMALL)
    assert folder == result.folder(tmp_path, SMALL)
    value = json.loads((folder / "result.json").read_text())
    assert {*value["files"]} == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    sheets = {f"{query}/{name}" for query in ("near", "far") for name in ("layers.png", "layers_shared.png")}
    layers = {f"{query}/layers/layer_0{layer}.png" for query in ("near", "far") for layer in range(3)}
    assert {"picture_1.png", "picture_2.png", "overlay.png", *sheets, *layers} < {*value["files"]}
    assert value["notes"] == []
    loaded = read_saved(folder)
    assert isinstance(loaded, Rings)
    assert np.array_equal(loaded.values, result.values)
    assert (loaded.settings, loaded.provenance) == (result.settings, result.provenance)
    assert np.array_equal(np.asarray(Image.open(folder / "overlay.png")), loaded._figures(SMALL).overlay())


def test_the_maps_are_drawn_at_their_places():
    """The nearest ring is brightest in the middle of the picture, the farthest is dark there."""
    figures = rings(picture("a.png"))._figures(Drawing(alpha=1.0, interp="cells", draw_size_px=160))
    plain = replace(figures, drawing=replace(figures.drawing, alpha=0.0))
    for ring, is_bright in ((0, True), (2, False)):
        selections = {"": MapSelection("near", (ring,))}
        page, bare = (drawn.draw_sheet(drawn.panels(selections), ["title"]) for drawn in (figures, plain))
        (top, left), (bottom, right) = (
            edge(np.argwhere((bare == 90).all(axis=-1)), axis=0) for edge in (np.min, np.max)
        )
        middle = page[(top + bottom) // 2, (left + right) // 2]
        assert (middle == color_table("inferno")[255, 0]).all() == is_bright


def test_what_a_filter_empties_is_said(tmp_path):
    """The median leaves nothing of one strong cell."""
    result = rings(picture("a.png"))
    values = result.values.copy()
    values[1, 1] = np.eye(48, dtype=np.float32)[20]
    folder = replace(result, values=values).save(tmp_path, SMALL)
    value = json.loads((folder / "result.json").read_text())
    assert value["notes"] == ["the filter median leaves nothing of far: ring 1"]
    assert "far/layers/layer_01.png" not in value["files"]
    assert "near/layers/layer_01.png" in value["files"]


def test_a_clip_has_a_film_and_a_timeline(tmp_path):
    folder = rings(clip(), clip=True).save(tmp_path, SMALL)
    names = {path.name for path in folder.iterdir()}
    assert {"heatmap.mp4", "timeline.png", "frames", "seen", "overlay.png"} <= names
    loaded = read_saved(folder)
    assert loaded.is_clip
    assert loaded.media[0].clip == clip().clip
    first, second = loaded._figures(Drawing()).pictures
    assert (first[0, 0, 0], second[0, 0, 0]) == (GREYS[0], GREYS[2]), "the first frame of each step"


def test_its_page_shows_the_maps_and_stands_beside_a_question(tmp_path):
    result = rings(picture("a.png"))
    folder, asked = result.save(tmp_path / "rings", SMALL), write_kept("ask", tmp_path / "ask")
    page = Reader((folder / "report.html").read_text(encoding="utf-8"))
    (panel,) = page.data["results"]
    sources = panel["maps"][0]["sources"]
    assert [source["layers"] for source in sources] == [[0, 1, 2], [0], [1], [2]]
    for layer, source in enumerate(sources[1:]):
        assert page.block(source["block"]) == pytest.approx(result.values[layer], rel=2**-10, abs=1e-9)
    both = make_report([folder, asked], tmp_path / "both.html")
    assert len(Reader(both.read_text(encoding="utf-8")).data["results"]) == 2


def test_a_damaged_one_is_refused_by_its_field(tmp_path):
    folder = rings(picture("a.png")).save(tmp_path, SMALL)
    value = json.loads((folder / "result.json").read_text())
    value["settings"]["rings"] = "many"
    (folder / "result.json").write_text(json.dumps(value))
    with pytest.raises(StoreError, match=r"is damaged: .*settings.rings: .*int.*draw the rings again") as caught:
        read_saved(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is a result of rings, not of ask or video"):
        Result.load(folder)


def test_the_command_line_draws_and_reports_it(tmp_path):
    noted = replace(picture("a.png"), notes=("cut on the left",))
    folder = rings(noted, picture("b.png")).save(tmp_path / "rings", SMALL)

    def invoke(*args):
        done = CliRunner().invoke(app, [*map(str, args)])
        assert done.exit_code == 0, done.output
        return done

    render = ("render", folder, "--draw-size", 160, "--denoise", "median", "-o", tmp_path / "again")
    done = invoke(*render)
    (again,) = (tmp_path / "again").iterdir()
    assert done.stdout.splitlines()[:2] == [f"folder: {again}", f"report: {again / 'report.html'}"]
    assert f"overlay: {again / 'overlay.png'}" in done.stdout.splitlines()
    assert done.stderr == "note: picture 1: cut on the left\n"
    again_json = json.loads(invoke(*render, "--json", "--quiet").stdout)
    assert again_json["folder"] == str(again)
    assert again_json["reused"] is True
    assert "overlay.png" in again_json["files"]
    quiet = invoke(*render, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (f"{again}\n", "")
    refused = CliRunner().invoke(app, [*map(str, render), "--query", "last"])
    assert refused.exit_code == 2
    assert "--query last is not for a result of rings" in " ".join(refused.stderr.split())
    invoke("report", folder, again, "--out", tmp_path / "both.html")
    assert len(Reader((tmp_path / "both.html").read_text(encoding="utf-8")).data["results"]) == 2
