"""Write the HTML page of a saved result, encoder result or check. Needs no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import check_new, write_text
from qvl_attn.core.text import argument, pluralize
from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.rows import read_all_scores
from qvl_attn.evaluation.summary_json import SUMMARY_REMEDY, read_summary
from qvl_attn.kinds import check_whole, read_with_json
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.results.page_data import results_html
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE, read_finished_run
from qvl_attn.results.store import RESULT_FILE, damage


def make_report(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the page of a result, encoder result or check, or one page of several results side by side.

    Args:
        folders: one or more folders that `ask`, `video`, `encoder`, `check`, `merge` or `render` wrote.
        out: the file to write, which must not exist yet; by default `report.html` in the folder, which is replaced.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder holds no result, several folders are given without `out`, or `out` exists.
        StoreError: a folder is damaged, or the file cannot be written.
    """
    given = [folders] if isinstance(folders, str | os.PathLike) else folders
    paths = list(dict.fromkeys(Path(folder) for folder in given))
    if out is None and len(paths) != 1:
        raise InputError(
            f"{len(paths)} folders, and no file for their page", f"name it with {argument('out', 'page.html')}"
        )
    target = paths[0] / REPORT_FILE if out is None else Path(out)
    if out is None:
        check_whole(paths[0])
    else:
        check_new(target, empty_folder=False)
    html = _html(paths)
    try:
        write_text(target, html)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _html(folders: Sequence[Path]) -> str:
    # os.path also takes names that are too long for pathlib.
    checks = [folder for folder in folders if os.path.isfile(folder / RUN_FILE)]  # noqa: PTH113
    if checks and len(folders) > 1:
        raise InputError(f"{checks[0]} is a check, which has a page of its own", "name it alone")
    if checks:
        return _check_html(checks[0])
    read = [read_with_json(folder) for folder in folders]
    with damage(", ".join(str(folder / RESULT_FILE) for folder in folders)):
        return results_html([result for result, _ in read], [saved.notes for _, saved in read])


def _check_html(folder: Path) -> str:
    run, summary = read_finished_run(folder), read_summary(folder)
    scores = [score for score in read_all_scores(folder, run) if score.half != "first"]
    if len(scores) != summary["samples"]:
        raise StoreError(
            f"{folder / ROWS_FILE} has {pluralize(len(scores), 'row')}, but {SUMMARY_FILE} counts {summary['samples']}",
            SUMMARY_REMEDY,
        )
    return check_html(summary, scores, read_examples(folder))
