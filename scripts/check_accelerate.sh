#!/usr/bin/env bash
# `qvl-attn check` with a process a GPU of this machine, and the parts merged at the end.
# usage: scripts/check_accelerate.sh PROCESSES OUT DATA [options of qvl-attn check]
# What was stopped goes on with the same command.
set -euo pipefail
processes="$1" out="$2"
shift 2
part() {
    # One of the GPUs that this process may see. A part that is finished is a success, whatever its figures:
    # the launcher would end the others otherwise.
    gpus="${CUDA_VISIBLE_DEVICES:-$(seq -s , 0 $((WORLD_SIZE - 1)))}"
    export CUDA_VISIBLE_DEVICES="$(cut -d , -f $((LOCAL_RANK + 1)) <<<"$gpus")"
    number=$((RANK + 1))
    qvl-attn check "$@" --shard "$number/$WORLD_SIZE" --out "$QVL_ATTN_OUT/part-$number" --quiet ||
        [ -e "$QVL_ATTN_OUT/part-$number/summary.json" ]
}
export -f part
export QVL_ATTN_OUT="$out"
accelerate launch --multi_gpu --num_machines 1 --num_processes "$processes" --mixed_precision no --dynamo_backend no \
    --no_python bash -c 'part "$@"' part "$@"
exec qvl-attn merge "$out"/part-* --out "$out/all"
