#!/usr/bin/env bash
# Train on one node or many, save when the time is up, and go back into the queue:
#
#   sbatch docs/slurm/train.sh scripts/train_classifier.py run.dir=runs/cls data.shards=shards/voc2012
#   sbatch --nodes=4 docs/slurm/train.sh scripts/train_rpn.py run.dir=runs/rpn data.shards=shards/voc2012
#
# Submit it in the repository, on a file system that all nodes share.
#SBATCH --job-name=vocdist
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# What the cluster decides; all of it may be set from outside.
processes_per_node="${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"
port="${MAIN_PROCESS_PORT:-29500}"
most_restarts="${MOST_RESTARTS:-50}"

run=""
for argument in "$@"; do
  [[ $argument == run.dir=* ]] && run="${argument#run.dir=}"
done
[[ -n $run ]] || { echo "name the run folder: run.dir=runs/..." >&2; exit 2; }
# What is read at the end must be of this start.
rm -f "$run/status.json"

# Torchrun's patience with a run that saves, below the 120 seconds of --signal.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-90}"
first_node="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"

# Each node's task fills in its own rank.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=0 bash -c '
  exec accelerate launch --quiet --config_file configs/accelerate/two_nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$1" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$2" --main_process_port "$3" "${@:4}"
' train "$((SLURM_NNODES * processes_per_node))" "$first_node" "$port" "$@" &
step=$!
# srun passes SIGTERM on to the launchers, and they to the ranks, which save and leave.
trap 'kill -TERM "$step" 2>/dev/null' USR1 TERM

# A trapped signal ends `wait` early: wait until the step is really over.
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do
  code=0
  wait "$step" || code=$?
done

state="$(sed -n 's/.*"state": "\(.*\)".*/\1/p' "$run/status.json" 2>/dev/null || true)"
echo "the run is ${state:-not begun} (exit code $code)"
case "$state" in
  finished) exit 0 ;;
  interrupted | lost | running)
    if ((${SLURM_RESTART_COUNT:-0} < most_restarts)); then
      scontrol requeue "$SLURM_JOB_ID"
      exit 0
    fi
    echo "restarted $most_restarts times: not put back into the queue" >&2
    ;;
esac
exit "$code"
