#!/bin/bash
# One es-align run on all nodes of a Slurm job, a Ray node on each.
#   sbatch docs/cluster/slurm.sh configs/gsm8k-qwen2.5-1.5b-gpu.yaml runs/mine
# A second sbatch with the same arguments goes on where the first was cut off.
#SBATCH --job-name=es-align
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120

set -euo pipefail
CONFIG=${1:?a YAML file}
RUN=${2:?a run folder on a shared disk}
PYTHON=${ES_ALIGN_PYTHON:-$PWD/.venv/bin}  # the same path on every node
PORT=$((20000 + SLURM_JOB_ID % 20000))     # jobs that share a node must not share a head
GPUS=${SLURM_GPUS_ON_NODE:-0}
PER_NODE=$((GPUS > 0 ? GPUS : 1))  # workers; a generation needs as many chunks: workers.members_per_chunk

# Everyone who reaches a head's port may run code on all nodes, unless a token is asked for.
umask 077
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID
"$PYTHON/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
export RAY_worker_niceness=0  # Ray's own, 15, yields to whatever else the node runs
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}  # models and data lie in the hub's cache already

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
HEAD_IP=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | awk '{print $1}')

cleanup() {
    kill "${STEPS[@]}" 2> /dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
STEPS=()
trap cleanup EXIT

COMMON=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$GPUS" --disable-usage-stats --block)
srun --nodes=1 --ntasks=1 --nodelist="$HEAD" --overlap "$PYTHON/ray" start --head \
    --node-ip-address="$HEAD_IP" --port="$PORT" --include-dashboard=false "${COMMON[@]}" &
STEPS+=($!)
for _ in {1..120}; do
    (: < "/dev/tcp/$HEAD_IP/$PORT") 2> /dev/null && break
    sleep 1
done
sleep 10  # until the head has a node of its own: the driver runs on it
for node in "${NODES[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap "$PYTHON/ray" start \
        --address="$HEAD_IP:$PORT" "${COMMON[@]}" &
    STEPS+=($!)
done

# This script runs on the first node. It begins with one worker; those of the other nodes join.
RESUME=()
[[ -f $RUN/ledger.jsonl ]] && RESUME=(--resume)
"$PYTHON/es-align" train "$CONFIG" --run-dir "$RUN" --address "$HEAD_IP:$PORT" \
    --set workers.count="$((SLURM_NNODES * PER_NODE))" --set workers.min_count=1 \
    --set workers.cpus="$((SLURM_CPUS_PER_TASK / PER_NODE))" --set workers.gpus="$((GPUS > 0))" \
    "${RESUME[@]}" &
DRIVER=$!
trap 'kill -TERM "$DRIVER"' TERM  # Slurm's, two minutes before the end
wait "$DRIVER" || { wait "$DRIVER"; exit $?; }
