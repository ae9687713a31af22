#!/usr/bin/env bash
# A run on several machines of a Slurm cluster:
#
#   sbatch params/slurm.sh params/NAME.yaml
#
# This only asks for the machines and starts the same chain as `make reproduce PARAMS=…` on the first of them. Its notebooks do
# the rest: a pruning round with `training.machines` above 1 calls
#
#   srun --nodes=M --ntasks=M … python -m kit round --start HOST:PORT …
#
# which on each machine becomes `accelerate launch --machine_rank <its SLURM_PROCID> --main_process_ip HOST --main_process_port
# PORT …`; HOST is the first machine. Evaluations use the GPUs of the first machine.
#
# Before the first run, on a machine that reaches the internet: `make .venv/installed`, `.venv/bin/pip install -e '.[vllm]'`, and
# the model and data sets into the hub's cache (HF_HOME, on a file system that all machines see, as this folder must be).
#
# To change: the four lines below. --nodes is training.machines, and nodes x GPUs is training.processes, of the params file.
# Partition, account and the like can be given to sbatch itself. A job that ran out of time is submitted again: it goes on from
# the last checkpoint.
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --job-name=thinkprune
#SBATCH --cpus-per-task=64
#SBATCH --output=slurm-%j.log
set -euo pipefail

params=${1:?usage: sbatch params/slurm.sh params/NAME.yaml}
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}  # compute nodes often have no way out; a missing file is then told at once
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun no longer takes this from sbatch by itself
export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1

.venv/bin/python -m kit run "$params"
