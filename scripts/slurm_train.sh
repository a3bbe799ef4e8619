#!/usr/bin/env bash
# Train an experiment on a SLURM cluster, with one launcher on each node and all of its GPUs.
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/slurm_train.sh playground/atss.res50.1x [KEY VALUE ...]
#
# OUTPUT_DIR and the data must be on a file system that all nodes share. SLURM tells the job to stop
# two minutes before its time ends, or when it is preempted: the job saves a checkpoint and returns
# to the queue, and then resumes from the checkpoint. $CVPODS_PORT is the port on the first node
# (29500).
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

# One task runs on each node; $SLURM_NODEID is its number.
srun --kill-on-bad-exit=1 bash -c '
    exec pods_train --dir "$CVPODS_EXPERIMENT" --resume --max-restarts 3 \
        --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --num-machines "$SLURM_NNODES" \
        --machine-rank "$SLURM_NODEID" --dist-url "tcp://$CVPODS_HOST:${CVPODS_PORT:-29500}" "$@"
' pods_train "$@"
status=$?

# 143: the run received SIGTERM and saved. If requeueing is not allowed, submit the job again.
if [ $status -eq 143 ]; then
    echo "Stopped by SIGTERM and saved; requeueing job $SLURM_JOB_ID."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
