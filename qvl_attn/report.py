"""Pages of what lies in folders, made again without a model: of results, of a look of an encoder, of a check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import check_new, read_json, write_text
from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.score import read_scores
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE, is_finished, read_run
from qvl_attn.results.store import RESULT_FILE, damage
from qvl_attn.vqa.page import result_html
from qvl_attn.vqa.redraw import check_whole, read_result


def make_report(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the page of a result, a look or a check, or one page of several results side by side. No model is needed.

    Args:
        folders: one or several that `ask`, `video`, `encoder`, `check`, `merge` or `render` wrote.
        out: the file to write, which must not be there; by default `report.html` in the one folder, made again.

    Returns:
        The file.

    Raises:
        InputError: no result, or several without a file to write to; the file is there already.
        StoreError: a folder is damaged, or the file cannot be written.
    """
    named = [folders] if isinstance(folders, str | os.PathLike) else folders
    paths = list(dict.fromkeys(Path(folder) for folder in named))
    if out is None and len(paths) != 1:
        raise InputError(f"{len(paths)} folders", "of several results one page is made: name it with --out page.html")
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
    checks = [one for one in folders if os.path.isfile(one / RUN_FILE)]  # of names that are too long as well  # noqa: PTH113
    if checks and len(folders) > 1:
        raise InputError(f"{checks[0]} is a check", "it has a page of its own: name it alone")
    if checks:
        return _check_html(checks[0])
    looks = [one for one in folders if _is_encoder_result(one)]
    if looks and len(folders) > 1:
        raise InputError(f"{looks[0]} is an encoder's", "it has a page of its own: name it alone")
    if looks:
        return _encoder_html(looks[0])
    results = [read_result(folder) for folder in folders]
    with damage(", ".join(str(one / RESULT_FILE) for one in folders)):
        return result_html(results, [_notes(one) for one in folders])


def _is_encoder_result(folder: Path) -> bool:
    file = folder / RESULT_FILE
    there = os.path.isfile(file)  # of names that are too long as well  # noqa: PTH113
    return there and read_json(file).get("kind") == "encoder"


def _encoder_html(folder: Path) -> str:
    from qvl_attn.encoders.page import encoder_html
    from qvl_attn.encoders.result import EncoderResult

    result = EncoderResult.load(folder)
    with damage(str(folder / RESULT_FILE)):
        return encoder_html(result, _notes(folder))


def _check_html(folder: Path) -> str:
    if not is_finished(folder):
        raise InputError(f"{folder} is a check that is not finished", "the same check command goes on with it")
    read_run(folder)
    summary = read_json(folder / SUMMARY_FILE)
    scores = [one for one in read_scores(folder) if one.half != "first"]
    if len(scores) != summary.get("samples"):
        raise StoreError(
            f"{folder / ROWS_FILE} has {len(scores)} rows of the {summary.get('samples')} that {SUMMARY_FILE} is about",
            "the same check command asks again what is missing, once summary.json is removed",
        )
    with damage(str(folder / SUMMARY_FILE)):
        return check_html(summary, scores, read_examples(folder))


def _notes(folder: Path) -> list[str]:
    return [str(note) for note in read_json(folder / RESULT_FILE)["notes"]]
