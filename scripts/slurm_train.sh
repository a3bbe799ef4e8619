#!/usr/bin/env bash
# Trains an experiment on a SLURM cluster: one launcher on each node, all its GPUs.
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/slurm_train.sh playground/atss.res50.1x [KEY VALUE ...]
#
# OUTPUT_DIR and the data must be on a file system that all nodes share. Two minutes before its time
# is over, or when it is preempted, the job is told to stop: it saves, and is put into the queue again
# to go on from there. $CVPODS_PORT is the port on the first node (29500).
#SBATCH --job-name=pods_train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

if [ $# -lt 1 ] || [ ! -f "$1/config.py" ]; then
    echo "usage: sbatch [options] scripts/slurm_train.sh EXPERIMENT_FOLDER [KEY VALUE ...]" >&2
    exit 2
fi
: "${SLURM_JOB_ID:?runs under SLURM: sbatch scripts/slurm_train.sh EXPERIMENT_FOLDER}"
export CVPODS_EXPERIMENT=$1
shift
export CVPODS_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One task on each node; $SLURM_NODEID tells them apart.
srun --kill-on-bad-exit=1 bash -c '
    exec pods_train --dir "$CVPODS_EXPERIMENT" --resume --max-restarts 3 \
        --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --num-machines "$SLURM_NNODES" \
        --machine-rank "$SLURM_NODEID" --dist-url "tcp://$CVPODS_HOST:${CVPODS_PORT:-29500}" "$@"
' pods_train "$@"
status=$?

# 143: SIGTERM came, and the run was saved. Where requeueing is not allowed, sbatch it again.
if [ $status -eq 143 ]; then
    echo "Stopped by SIGTERM and saved; requeueing job $SLURM_JOB_ID."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
