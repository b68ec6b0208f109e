#!/usr/bin/env bash
# Runs `qvl-attn check` with one process per GPU of this machine, and merges the parts at the end.
# usage: scripts/check_accelerate.sh PROCESSES OUT DATA [options of qvl-attn check]
# The same command continues a stopped run. For limits, merge again: qvl-attn merge OUT/part-* --out X --fail-under ...
set -euo pipefail
[ $# -ge 3 ] || { sed -n 2,4p "$0" >&2; exit 2; }
processes="$1" out="$2"
shift 2
part() {
    # Select one of the GPUs that are visible to this process, if there are any.
    local parts="${WORLD_SIZE:-1}" number=$((${RANK:-0} + 1)) code=0
    local gpus="${CUDA_VISIBLE_DEVICES-$(seq -s , 0 $((parts - 1)))}"
    if [ -n "$gpus" ]; then
        CUDA_VISIBLE_DEVICES="$(cut -d , -f $((${LOCAL_RANK:-0} + 1)) <<<"$gpus,")"
        export CUDA_VISIBLE_DEVICES
        [ -n "$CUDA_VISIBLE_DEVICES" ] || { echo "$parts processes, but fewer GPUs: $gpus" >&2; exit 2; }
    fi
    qvl-attn check "$@" --shard "$number/$parts" --out "$QVL_ATTN_OUT/part-$number" >/dev/null || code=$?
    # A finished part with many errors, or below a limit, must not stop the others.
    [ "$code" = 1 ] && [ -e "$QVL_ATTN_OUT/part-$number/summary.json" ] && code=0
    exit "$code"
}
export -f part
export QVL_ATTN_OUT="$out"
several=()
[ "$processes" = 1 ] || several=(--multi_gpu)
accelerate launch "${several[@]}" --num_machines 1 --num_processes "$processes" --mixed_precision no \
    --dynamo_backend no --no_python bash -c 'part "$@"' part "$@" &
trap 'kill "$!"' INT TERM
wait "$!"
[ -e "$out/all" ] || exec qvl-attn merge "$out"/part-* --out "$out/all"
echo "$out/all already exists" >&2
