"""`qvl-attn check`: answers and grounding over a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qvl_attn.cli import completion, options
from qvl_attn.cli.console import (
    find_model,
    find_processor,
    go_offline,
    handle_errors,
    importing,
    print_line,
    printed_log,
)
from qvl_attn.cli.gate import (
    CHECK,
    AsCsv,
    AsJson,
    FailUnder,
    Quiet,
    apply_gate,
    check_thresholds,
    parse_thresholds,
    print_summary,
)
from qvl_attn.cli.options import DEFAULT_MODEL, AttnMode, DtypeName, EngineName
from qvl_attn.cli.progress import progress_bars
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import pluralize

if TYPE_CHECKING:
    from qvl_attn.evaluation.ray_workers import RayWorkers
    from qvl_attn.evaluation.sharding import Shard

DATA, RUN = "Data", "Run"


def check(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A JSONL file of questions with boxes, a folder of pictures (with --prompts), hf:OWNER/NAME, or a "
            "folder that the datasets library wrote.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the run: a new one, or that of a stopped run, which continues.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    prompts: options.Prompts = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that the paths in DATA start from. Default: the folder of DATA.",
            rich_help_panel=DATA,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Ask only the first N questions.", min=1, max=1_000_000, rich_help_panel=DATA),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Split of a Hugging Face data set.", rich_help_panel=DATA)
    ] = "test",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD=COLUMN,...",
            help="Columns of a Hugging Face data set, such as question=sent,boxes=bbox,id=ref_id.",
            rich_help_panel=DATA,
        ),
    ] = None,
    box_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Format of the boxes of a Hugging Face data set: xyxy, xywh or cxcywh.",
            rich_help_panel=DATA,
        ),
    ] = None,
    box_units: Annotated[
        str | None,
        typer.Option(
            metavar="UNITS",
            help="Units of these boxes: px, normalized (0 to 1) or permille (0 to 1000).",
            rich_help_panel=DATA,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Ask only part I of N, so that N processes share the work. qvl-attn merge joins the parts.",
            rich_help_panel=RUN,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Most prompts in a batch. Fewer are taken where they would not fit the memory.",
            min=1,
            max=4096,
            rich_help_panel=RUN,
        ),
    ] = 8,
    engine: Annotated[
        EngineName,
        typer.Option(help="local: run in this process. ray: run in actors of Ray Data.", rich_help_panel=RUN),
    ] = EngineName.local,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", help="Ray: number of actors. Each loads the model.", min=1, rich_help_panel=RUN),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Ray: GPUs for each actor. Default: 1 if the cluster has GPUs.",
            min=0,
            max=64,
            rich_help_panel=RUN,
        ),
    ] = None,
    fps: Annotated[
        float, typer.Option(metavar="N", help="Clips: frames to sample per second.", rich_help_panel=DATA)
    ] = 2.0,
    max_frames: Annotated[
        int, typer.Option(metavar="N", help="Clips: most frames to sample.", rich_help_panel=DATA)
    ] = 64,
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = DtypeName.auto,
    attn: options.Attn = AttnMode.auto,
    offline: options.Offline = False,
    system: options.System = None,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    stretch: options.Stretch = False,
    max_new_tokens: options.MaxNewTokens = 64,
    query: options.Query = None,
    profile: options.Profile = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS", help="Layers of the headline map: 18, 14-20 or all.", rich_help_panel=options.MAPS
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="HEADS",
            help="Heads of the headline map: 3,5, or 21.9,21.11 (layer.head).",
            rich_help_panel=options.MAPS,
        ),
    ] = None,
    by_head: Annotated[
        bool, typer.Option("--by-head", help="Also score every head, and draw heads.png.", rich_help_panel=CHECK)
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="METHODS",
            help="Also score the maps of these methods, such as mean,relative,gradient (qvl-attn methods lists all).",
            autocompletion=completion.method_lists,
            rich_help_panel=CHECK,
        ),
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="Also test the map of each method by deletion, insertion and sanity checks.",
            rich_help_panel=CHECK,
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rank layers and heads on one half of the pictures, measure them on the other, and write the best "
            "heads to this file as a profile.",
            rich_help_panel=CHECK,
        ),
    ] = None,
    fail_under: FailUnder = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Seed of intervals, halves and controls.",
            callback=options.seed_of(63),
            rich_help_panel=CHECK,
        ),
    ] = 0,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask all questions of a data set: are the answers right, and did the model look at the evidence?

    qvl-attn check questions.jsonl --model demo --out runs/demo
    """
    with (
        handle_errors(
            debug=debug, interrupted=f"interrupted; finished rows are kept in {out}: run the same command to continue"
        ),
        progress_bars(enabled=not quiet) as progress,
        printed_log(quiet=quiet),
    ):
        if offline:
            go_offline()
        thresholds = parse_thresholds(fail_under)
        # Imported here, so that --help and a mistyped option need not wait for torch.
        from qvl_attn.attribution.settings import CommonOptions
        from qvl_attn.core.files import check_new
        from qvl_attn.evaluation.data.load import load_samples
        from qvl_attn.media.sampling import ClipSettings, SamplingOptions
        from qvl_attn.model.placement import LoadOptions
        from qvl_attn.results.run_folder import SUMMARY_FILE, check_begun, is_finished
        from qvl_attn.results.store import damage
        from qvl_attn.vqa.session import check_settings

        load_options, sampling = options.typed(ctx, LoadOptions), options.typed(ctx, SamplingOptions)
        common = options.typed(ctx, CommonOptions)
        ClipSettings(**sampling)
        own_shard = _parse_shard(shard) if shard else None
        if engine == "local" and (concurrency is not None or gpus_per_worker is not None):
            raise InputError("--concurrency and --gpus-per-worker are for --engine ray", "add --engine ray")
        if engine == "ray" and find_spec("ray") is None:
            raise InputError("--engine ray needs the library ray", "pip install 'qvl-attn[ray]'")
        if engine == "ray" and calibrate:
            raise InputError("--calibrate keeps the maps of all heads in one process", "leave out --engine ray")
        check_begun(out)
        if calibrate and not is_finished(out):
            check_new(calibrate, "calibrate", empty_folder=False)

        def check_typed() -> None:
            check_settings({**common, "methods": methods}, model, **load_options)

        def question_check() -> Callable[[str], None]:
            check_typed()
            with importing():
                from qvl_attn.model.prompt import check_text, control_words

            words = control_words(find_processor(model, revision, offline=offline, bars=not quiet))
            return lambda question: check_text("question", question, words)

        samples = load_samples(
            data,
            data_root=data_root,
            prompts=prompts,
            limit=limit,
            split=split,
            columns=columns,
            box_format=box_format,
            box_units=box_units,
            question_check=question_check,
            progress=progress,
        )
        run_samples = own_shard.own(samples) if own_shard else samples
        check_thresholds(thresholds, run_samples, boxes_only=calibrate is not None)
        media = {media_ref.identity for sample in samples for media_ref in sample.media_refs}
        about = f"{pluralize(len(samples), 'sample')} about {pluralize(len(media), 'picture or clip')}"
        if not quiet:
            print_line(f"{about}; all files found")
        check_typed()
        analyzer = find_model(
            model,
            bars=not quiet,
            workers=_ray_workers(concurrency, gpus_per_worker) if engine == "ray" else None,
            **load_options,
        )
        # Ray prints to stdout when an actor dies.
        with redirect_stdout(sys.stderr) if engine == "ray" else nullcontext():
            summary = analyzer.check(
                samples,
                out,
                name=data if data.startswith("hf:") else Path(data).name,
                by_head=by_head,
                methods=methods,
                calibrate=calibrate,
                csv=as_csv,
                shard=shard,
                batch_size=batch_size,
                progress=progress,
                **common,
                **sampling,
            )
        # A run that was finished before is read from its files.
        with damage(out / SUMMARY_FILE, "remove it and run the same qvl-attn check command, which writes it again"):
            print_summary(summary, out, calibrate, as_json=as_json, quiet=quiet)
            apply_gate(summary, thresholds)


def _parse_shard(typed: str) -> Shard:
    from qvl_attn.evaluation.sharding import Shard  # loads matplotlib

    return Shard.parse(typed)


def _ray_workers(concurrency: int | None, gpus_per_worker: float | None) -> RayWorkers:
    with importing():
        from qvl_attn.evaluation.ray_workers import RayWorkers

    return RayWorkers(concurrency or 1, gpus_per_worker)
