"""`qvl-attn selftest`: check that capture is correct for these weights on this machine."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import find_model, go_offline, handle_errors, printed_log
from qvl_attn.cli.options import DEFAULT_MODEL, OUTPUT, DtypeName
from qvl_attn.cli.progress import progress_bars
from qvl_attn.core.text import plain

if TYPE_CHECKING:
    from qvl_attn.core.runtime import Stages
    from qvl_attn.selftest import Check
    from qvl_attn.vqa.engine import Engine

VERDICTS = {True: "ok", False: "FAILED", None: "info"}
PEAKS = ("host", "device")


def selftest(
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = DtypeName.auto,
    offline: options.Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
    debug: options.Debug = False,
) -> None:
    """Check that attention is captured correctly with your model on your machine. Exit code 1 if a check fails.

    qvl-attn selftest --model demo
    """
    with handle_errors(debug=debug), progress_bars(enabled=not as_json) as progress, printed_log():
        if offline:
            go_offline()
        engine = find_model(
            model,
            offline=offline,
            bars=not as_json,
            revision=revision,
            device=device,
            dtype=dtype.value,
            device_map=device_map,
            attn="rows",
        ).engine
        from qvl_attn.core.runtime import Stages
        from qvl_attn.model.memory import on_device
        from qvl_attn.selftest import CHECKS, iterate_checks

        stages = Stages()
        with stages.stage("load"):
            _ = engine.model
        checks: list[Check] = []
        progress("checking", 0, CHECKS)
        with stages.stage("check"), on_device(engine.placement, 0):
            for check in iterate_checks(engine):
                checks.append(check)
                progress("checking", len(checks), CHECKS)
                if not as_json:
                    print(plain(f"{VERDICTS[check.passed]:<8}{check.name}: {check.what}"))
                    print(plain(f"        {check.detail}"), flush=True)
        report = _report(engine, checks, stages)
        print(json.dumps(report, allow_nan=False) if as_json else _summary(report))
        if not report["passed"]:
            raise typer.Exit(1)


def _report(engine: Engine, checks: list[Check], stages: Stages) -> dict[str, Any]:
    import torch
    import transformers

    from qvl_attn.core.version import __version__

    placement, on_gpu = engine.placement, engine.placement.device.startswith("cuda")
    return {
        "passed": all(check.passed is not False for check in checks),
        "checks": [
            dataclasses.asdict(check)
            | {"figures": {name: x if math.isfinite(x) else None for name, x in check.figures.items()}}
            for check in checks
        ],
        "model": engine.checkpoint.name,
        "revision": engine.checkpoint.revision,
        "dtype": placement.dtype,
        "device": placement.device_map or placement.device,
        "device_name": torch.cuda.get_device_name(placement.device) if on_gpu else platform.machine(),
        "versions": {
            "qvl-attn": __version__,
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "seconds": stages.seconds,
        "peak_memory_bytes": stages.peak_bytes,
    }


def _summary(report: dict[str, Any]) -> str:
    peak = {name: max(stage.get(name, 0) for stage in report["peak_memory_bytes"].values()) for name in PEAKS}
    lines = [
        "",
        f"model     {report['model']} ({report['revision'][:12]})",
        f"where     {report['dtype']} on {report['device']} ({report['device_name']})",
        f"versions  {', '.join(f'{name} {version}' for name, version in report['versions'].items())}",
        f"seconds   {', '.join(f'{name} {seconds:.1f}' for name, seconds in report['seconds'].items())}",
        f"peak      {', '.join(f'{name} {size / 2**30:.2f} GiB' for name, size in peak.items() if size)}",
        "",
        "all checks passed" if report["passed"] else "a check FAILED: do not trust maps made here",
    ]
    return "\n".join(plain(line) for line in lines)
