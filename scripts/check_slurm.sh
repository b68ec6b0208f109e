#!/usr/bin/env bash
#SBATCH --job-name=qvl-attn-check
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
# Runs `qvl-attn check` as an array of jobs, each on a part of the data.
# usage: sbatch --array=1-8 scripts/check_slurm.sh 8 OUT DATA [options of qvl-attn check]
# then:  qvl-attn merge OUT/part-* --out OUT/all
# To continue a stopped or preempted part: sbatch --array=3 scripts/check_slurm.sh 8 OUT DATA [the same options]
set -euo pipefail
[ $# -ge 3 ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || { sed -n 9,12p "$0" >&2; exit 2; }
parts="$1" out="$2"
shift 2
exec qvl-attn check "$@" --shard "$SLURM_ARRAY_TASK_ID/$parts" --out "$out/part-$SLURM_ARRAY_TASK_ID"
