"""The check of the pages' JavaScript can fail, and says where."""

from __future__ import annotations

import os
import shutil

import pytest

FAULTS = {
    "draw": ("const grey = undefinedName;", "Cannot find name 'undefinedName'"),
    "panels": ('paint($("map"), 3);', "Expected 7 arguments, but got 2"),
    "check": ('document.querySelector(".check").focus();', "Property 'focus' does not exist on type 'Element'"),
    "thumbs": ("function unused() {}", "'unused' is defined but never used. (no-unused-vars)"),
}


def test_faults_of_a_page_are_told_at_their_own_file_and_line(tmp_path):
    try:
        import check_javascript
    except ImportError:
        installed = False
    else:
        installed = check_javascript.is_installed()
    if not installed:
        assert not os.environ.get("QVL_ATTN_REQUIRE_TYPESCRIPT"), "no TypeScript: see scripts/check_javascript.py"
        pytest.skip("no TypeScript: python scripts/check_javascript.py installs it (extra dev)")
    assets = tmp_path / "assets"
    shutil.copytree(check_javascript.ASSETS, assets)
    wanted = []
    for name, (line, message) in FAULTS.items():
        text = (assets / f"{name}.js").read_text(encoding="utf-8")
        (assets / f"{name}.js").write_text(f"{text}{line}\n", encoding="utf-8")
        wanted.append((f"{assets / name}.js:{text.count(chr(10)) + 1}:", message))
    found = check_javascript.faults(assets)
    for place, message in wanted:
        assert any(line.startswith(place) and message in line for line in found), (place, message, found)
    places = tuple(place for place, _ in wanted)
    assert [line for line in found if not line.startswith(places)] == []
    shared = next(line for line in found if "undefinedName" in line)
    assert shared.endswith("(page: result, check)")
