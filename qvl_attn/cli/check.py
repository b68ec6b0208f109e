"""`qvl-attn check`: VQA grounding over a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults, find_model, go_offline, importing, no_op, say
from qvl_attn.cli.gate import CHECK, AsCsv, AsJson, FailUnder, Quiet, apply_gate, parse_thresholds, tell_summary
from qvl_attn.cli.options import DEFAULT_MODEL, AttnMode, EngineName
from qvl_attn.cli.progress import progress_bars
from qvl_attn.core.errors import InputError

if TYPE_CHECKING:
    from qvl_attn.evaluation.ray_workers import RayWorkers

DATA, RUN = "Data", "Run"


def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="JSONL of questions with boxes; a folder of pictures (with --prompts); or hf:OWNER/NAME, or a folder "
            "that datasets saved.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder to make, or to go on in.", rich_help_panel=options.OUTPUT),
    ],
    prompts: options.Prompts = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="All files lie within; by default the folder of DATA.", rich_help_panel=DATA),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first records.", min=1, max=1_000_000, rich_help_panel=DATA)
    ] = None,
    split: Annotated[str, typer.Option(help="Of a Hugging Face data set.", rich_help_panel=DATA)] = "test",
    columns: Annotated[
        str | None,
        typer.Option(help="Its columns: question=sent,boxes=bbox,image=image,id=ref_id.", rich_help_panel=DATA),
    ] = None,
    box_format: Annotated[
        str | None, typer.Option(help="Of its boxes: xyxy, xywh, cxcywh.", rich_help_panel=DATA)
    ] = None,
    box_units: Annotated[
        str | None, typer.Option(help="Of its boxes: px, normalized, permille.", rich_help_panel=DATA)
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="One of N parts of the data, for as many processes.", rich_help_panel=RUN),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Prompts at once, while they fit the memory.", min=1, max=4096, rich_help_panel=RUN)
    ] = 8,
    engine: Annotated[
        EngineName, typer.Option(help="This process, or actors of Ray Data.", rich_help_panel=RUN)
    ] = EngineName.local,
    concurrency: Annotated[
        int | None, typer.Option(help="Of Ray: how many actors hold the model.", min=1, rich_help_panel=RUN)
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="Of Ray: by default 1 where the cluster has GPUs.", min=0, max=64, rich_help_panel=RUN),
    ] = None,
    fps: Annotated[float, typer.Option(help="Of clips: frames sampled a second.", rich_help_panel=DATA)] = 2.0,
    max_frames: Annotated[int, typer.Option(help="Of clips: frames at most.", rich_help_panel=DATA)] = 64,
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = "auto",
    attn: options.Attn = AttnMode.auto,
    offline: options.Offline = False,
    system: options.System = None,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    max_new_tokens: options.MaxNewTokens = 64,
    query: options.Query = None,
    profile: options.Profile = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers of the headline: 18, 14-20, all.", rich_help_panel=options.MAPS)
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Heads of the headline: 3,5 or 21.9,21.11.", rich_help_panel=options.MAPS)
    ] = None,
    by_head: Annotated[
        bool, typer.Option("--by-head", help="Figures of every head, and heads.png.", rich_help_panel=CHECK)
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Score these methods as well: mean,relative,gradient (qvl-attn methods).", rich_help_panel=CHECK
        ),
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness", help="Deletion, insertion and sanity checks of each method's map.", rich_help_panel=CHECK
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="PROFILE.json",
            help="Rank layers and heads on one half of the pictures, judge on the other, write the best heads here.",
            rich_help_panel=CHECK,
        ),
    ] = None,
    fail_under: FailUnder = None,
    seed: Annotated[
        int, typer.Option(help="Of the intervals, halves and controls.", min=0, max=2**63 - 1, rich_help_panel=CHECK)
    ] = 0,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask every question of a data set: was the answer right, and did the model look where the evidence is?

    qvl-attn check questions.jsonl --model demo --out runs/demo
    """
    with (
        faults(debug=debug, interrupted=f"interrupted; finished rows are kept in {out}: the same command goes on"),
        progress_bars(shown=not quiet) as progress,
    ):
        if offline:
            go_offline()
        thresholds = parse_thresholds(fail_under)
        # Imported here: --help and a mistyped word must not wait for torch.
        from qvl_attn.core.files import check_new
        from qvl_attn.evaluation.data.load import load_samples
        from qvl_attn.evaluation.sharding import Shard
        from qvl_attn.media.sampling import ClipSettings
        from qvl_attn.results.run_folder import check_begun, is_finished

        ClipSettings(fps, max_frames)
        if shard:
            Shard.parse(shard)
        if engine == "local" and (concurrency is not None or gpus_per_worker is not None):
            raise InputError("--concurrency and --gpus-per-worker are for --engine ray", "add --engine ray")
        if engine == "ray" and find_spec("ray") is None:
            raise InputError("--engine ray needs the library ray", "pip install 'qvl-attn[ray]'")
        if engine == "ray" and calibrate:
            raise InputError("--calibrate keeps the maps of all heads in one process", "leave --engine ray")
        check_begun(out)
        if calibrate and not is_finished(out):
            check_new(calibrate, "--calibrate", empty_folder=False)
        samples = load_samples(
            data,
            data_root=data_root,
            prompts=prompts,
            limit=limit,
            split=split,
            columns=columns,
            box_format=box_format,
            box_units=box_units,
            progress=lambda done: progress("checking the data", done, 0),
        )
        progress("checking the data", len(samples), len(samples))
        tell = no_op if quiet else say
        pictures = {shown.identity for one in samples for shown in one.media_refs}
        tell(f"{len(samples)} samples about {len(pictures)} pictures or clips, all found")
        workers = _ray_workers(concurrency, gpus_per_worker, tell) if engine == "ray" else None
        analyzer = find_model(
            model,
            offline=offline,
            bars=not quiet,
            tell=tell,
            revision=revision,
            device=device,
            dtype=dtype,
            device_map=device_map,
            attn=attn.value,
            **({"place": workers.place} if workers else {}),
        )
        # Ray tells on stdout of actors that died.
        with redirect_stdout(sys.stderr) if engine == "ray" else nullcontext():
            summary = analyzer.check(
                samples,
                out,
                name=data if data.startswith("hf:") else Path(data).name,
                by_head=by_head,
                methods=methods,
                faithfulness=faithfulness,
                calibrate=calibrate,
                csv=as_csv,
                seed=seed,
                shard=shard,
                batch_size=batch_size,
                fps=fps,
                max_frames=max_frames,
                progress=progress,
                query=query,
                profile=profile,
                layers=layers,
                heads=heads,
                system=system,
                min_pixels=min_pixels,
                max_pixels=max_pixels,
                max_new_tokens=max_new_tokens,
                workers=workers,
            )
        tell_summary(summary, out, calibrate, as_json=as_json, quiet=quiet)
        apply_gate(summary, thresholds)


def _ray_workers(concurrency: int | None, gpus_per_worker: float | None, tell: Callable[[str], None]) -> RayWorkers:
    with importing():
        from qvl_attn.evaluation.ray_workers import RayWorkers

    return RayWorkers(concurrency or 1, gpus_per_worker, tell)
