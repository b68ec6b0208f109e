"""Trains the embedded model from nothing: draws what it is shown, builds its tokenizer, trains, evaluates, writes it.

    python scripts/training/train_demo_model.py --seed 1 --threads 1 --work runs/seed-1 --out qvl_attn/demo/model

Stopped at any moment, the same command goes on from the last checkpoint in --work: on a CPU, with as many threads, to
the same weights. The finished checkpoint is in the folder `model` there, and in --out if its figures reach every bar.
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

# glibc gives every large block back to the kernel and gets it anew in each step otherwise, at ten times the time.
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
    parser.add_argument("--out", type=Path, help="folder to copy the checkpoint to if its figures reach every bar")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look-steps", type=count, help="of the first phase; the default is what the checkpoint took")
    parser.add_argument("--answer-steps", type=count, help="of the second phase, likewise")
    parser.add_argument("--minutes", type=float, help="stop after this long, to go on later")
    parser.add_argument("--save-every", type=count, default=200, metavar="STEPS")
    parser.add_argument("--skip-evaluation", action="store_true", help="copy the checkpoint without measuring it")
    parser.add_argument("--threads", type=count, help="of torch; the default is torch's own")
    wanted = parser.parse_args()
    if any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    try:
        train(wanted)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        sys.exit(130)


def train(wanted: argparse.Namespace) -> None:
    import torch
    from demo_model.build import build_processor, save
    from demo_model.training import Trainer, TrainingPlan
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from safetensors import SafetensorError

    if wanted.threads:
        torch.set_num_threads(wanted.threads)
    steps = {name: getattr(wanted, name) for name in ("look_steps", "answer_steps")}
    plan = replace(
        TrainingPlan(seed=wanted.seed), **{name: count for name, count in steps.items() if count is not None}
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    template = Path(__file__).parent / "demo_model" / "chat_template.jinja"
    processor = build_processor(template.read_text(encoding="utf-8"))
    trainer = Trainer(plan, processor, device)
    wanted.work.mkdir(parents=True, exist_ok=True)
    checkpoint = wanted.work / "checkpoint.safetensors"
    if checkpoint.exists():
        try:
            trainer.resume(checkpoint)
        except (ValueError, KeyError, SafetensorError) as error:
            sys.exit(f"{checkpoint}: cannot go on from it ({error}); name another --work")
    until = time.monotonic() + 60 * wanted.minutes if wanted.minutes is not None else float("inf")
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        (wanted.work / "log.txt").open("a", encoding="utf-8", buffering=1) as log,
    ):
        task = bar.add_task("training", total=plan.steps, completed=trainer.done)
        while trainer.done < plan.steps and time.monotonic() < until:
            losses = trainer.step()
            bar.update(task, completed=trainer.done)
            if trainer.done % wanted.save_every == 0:
                trainer.save(checkpoint)
                now = f"{time.strftime('%H:%M:%S')} step {trainer.done}"
                log.write(f"{now} {_rounded(losses)} {_rounded(trainer.accuracy())}\n")
    trainer.save(checkpoint)
    if trainer.done < plan.steps:
        sys.exit(f"{trainer.done} of {plan.steps} steps are done; the same command goes on")
    save(trainer.model.cpu(), processor, wanted.work / "model")
    print(f"trained; the checkpoint is in {wanted.work / 'model'}")
    if not wanted.skip_evaluation:
        from evaluate_demo_model import evaluate

        bars = evaluate(wanted.work / "model", 500, 500, 504)
        print("\n".join(map(str, bars)))
        if not all(bar.met for bar in bars):
            sys.exit("a bar is missed: nothing is copied")
    if wanted.out:
        _install(wanted.work / "model", wanted.out)
        print(f"written to {wanted.out}")


def _install(made: Path, out: Path) -> None:
    """Puts each file in place whole; the model card, if there is one, stays."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(made.iterdir()):
        shutil.copyfile(file, out / f"{file.name}.draft")
        (out / f"{file.name}.draft").replace(out / file.name)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()
