"""Trains the embedded model from scratch: builds its tokenizer, draws its data, trains, evaluates and writes it.

    python scripts/training/train_demo_model.py --seed 1 --threads 1 --work runs/seed-1 --out qvl_attn/demo/model

After an interruption, the same command continues from the last checkpoint in --work; on a CPU, with the same number of
threads, to the same weights. The finished checkpoint is written to the folder `model` in --work, and copied to --out if
its figures reach every required value.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from demo_model.arguments import count

# Otherwise glibc returns every large block to the kernel and requests it again in each step, which takes ten times as
# long.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument(
        "--out", type=Path, help="folder to copy the checkpoint to if its figures reach every required value"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--look-steps", type=count, help="steps of the first phase; by default those of the shipped checkpoint"
    )
    parser.add_argument("--answer-steps", type=count, help="steps of the second phase; the same default")
    parser.add_argument("--minutes", type=float, help="stop after this time, to continue later")
    parser.add_argument("--save-every", type=count, default=200, metavar="STEPS")
    parser.add_argument("--skip-evaluation", action="store_true", help="copy the checkpoint without evaluating it")
    parser.add_argument("--threads", type=count, help="threads of torch; by default torch's own choice")
    options = parser.parse_args()
    if any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    try:
        train(options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues from the last checkpoint\n")
        sys.exit(130)


def train(options: argparse.Namespace) -> None:
    import torch
    from demo_model.build import build_processor, save
    from demo_model.training import Trainer, TrainingPlan
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from safetensors import SafetensorError

    if options.threads:
        torch.set_num_threads(options.threads)
    steps = {name: getattr(options, name) for name in ("look_steps", "answer_steps")}
    plan = replace(
        TrainingPlan(seed=options.seed), **{name: count for name, count in steps.items() if count is not None}
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    template = Path(__file__).parent / "demo_model" / "chat_template.jinja"
    processor = build_processor(template.read_text(encoding="utf-8"))
    trainer = Trainer(plan, processor, device)
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = options.work / "checkpoint.safetensors"
    if checkpoint.exists():
        try:
            trainer.resume(checkpoint)
        except (ValueError, KeyError, SafetensorError) as error:
            sys.exit(f"{checkpoint}: cannot be continued ({error}); name another --work")
    deadline = time.monotonic() + 60 * options.minutes if options.minutes is not None else float("inf")
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        (options.work / "log.txt").open("a", encoding="utf-8", buffering=1) as log,
    ):
        task = bar.add_task("training", total=plan.steps, completed=trainer.done)
        while trainer.done < plan.steps and time.monotonic() < deadline:
            losses = trainer.step()
            bar.update(task, completed=trainer.done)
            if trainer.done % options.save_every == 0:
                trainer.save(checkpoint)
                prefix = f"{time.strftime('%H:%M:%S')} step {trainer.done}"
                log.write(f"{prefix} {_rounded(losses)} {_rounded(trainer.accuracy())}\n")
    trainer.save(checkpoint)
    if trainer.done < plan.steps:
        sys.exit(f"{trainer.done} of {plan.steps} steps are done; the same command continues")
    save(trainer.model.cpu(), processor, options.work / "model")
    print(f"trained; the checkpoint is in {options.work / 'model'}")
    if not options.skip_evaluation:
        from evaluate_demo_model import evaluate

        bars = evaluate(options.work / "model", 500, 500, 504)
        print("\n".join(map(str, bars)))
        if not all(bar.met for bar in bars):
            sys.exit("a required figure is missed: nothing is copied")
    if options.out:
        _install(options.work / "model", options.out)
        print(f"written to {options.out}")


def _install(checkpoint: Path, out: Path) -> None:
    """Copy each file to a draft and rename it; an existing model card is kept."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(checkpoint.iterdir()):
        shutil.copyfile(file, out / f"{file.name}.draft")
        (out / f"{file.name}.draft").replace(out / file.name)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()
