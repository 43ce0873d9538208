#!/bin/bash
# Workers of one job as tasks of a SLURM array: sbatch --array=0-7 slurm.sh JOB OUTPUT [FLAGS...]
# OUTPUT lies on a disk that all nodes see. A task that ends early is replaced by the others, or by the same command.
#SBATCH --job-name=diffpose-job
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --output=diffpose-job-%A_%a.log
set -eu
job=$1 output=$2
shift 2
# Without waiting, a task ends when nothing is left to claim, and does not hold its GPU for the last units of others.
exec srun python -m diffpose_jax evaluate --job "$job" --output "$output" --nowait "$@"
