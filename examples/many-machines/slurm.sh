#!/bin/sh
# A drift run on Slurm: each task of a job array computes one part. docs/many-machines.md explains it.
#     sbatch slurm.sh --model /shared/gemma-3-270m --text /shared/texts/*.txt
# Parts that are to run again, as `gemma-mlp merge --expect 16` names them:
#     sbatch --array=3,7 slurm.sh …the same arguments
#SBATCH --job-name=gemma-drift
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
# Five minutes before the time limit: a part then ends after its current window and saves what it has.
#SBATCH --signal=TERM@300
set -eu

part=${SLURM_ARRAY_TASK_ID:?start this with sbatch, as a job array}
# Not the size of the array, which is smaller when parts run again.
parts=${PARTS:-16}
out=${OUT:-parts}
mkdir -p "$out"

# srun does not take the number over from sbatch (since Slurm 22.05), and not every cluster keeps a task to its cores.
cores=${SLURM_CPUS_PER_TASK:-1}
export RAYON_NUM_THREADS="$cores"
srun --cpus-per-task="$cores" gemma-mlp drift "$@" --shard "$part/$parts" --out "$out/part-$part-of-$parts.json"
