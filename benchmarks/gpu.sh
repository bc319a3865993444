#!/usr/bin/env bash
# All that one GPU can say of this project in 25 minutes: bash benchmarks/gpu.sh [FOLDER]
#
# Are the results those of CPUs, also compiled and in half precision; does training run with NCCL, synchronised batch norm
# and FSDP; how fast are inference and training steps beside the published sequence of operations and other libraries'
# networks; and, if data/hippocampus is there, what is reached in five minutes. Logs and tables go to FOLDER (runs/gpu), and
# the end is one table. Without a GPU it says what it would run.
set -u
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
python=${PYTHON:-python}
"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' && gpu=true || gpu=false

run() { # NAME MINUTES COMMAND...: run a command and note how it ended
    local name=$1 minutes=$2 started=$SECONDS status
    shift 2
    if ! $gpu; then
        echo "$name, at most $minutes min: $*"
        return
    fi
    echo "== $name"
    timeout "${minutes}m" "$@" >"$out/$name.log" 2>&1
    status=$?
    [ $status = 0 ] && status=passed
    [ $status = 124 ] && status="cut after $minutes min"
    echo "$name,$((SECONDS - started)) s,$status,$(tail -n 1 "$out/$name.log" | tr ',\r' '; ' | cut -c 1-80)" >>"$out/steps.csv"
}

if $gpu; then
    mkdir -p "$out"
    echo "step,time,end,last line" >"$out/steps.csv"
else
    echo "No GPU here. On a machine with one this would run:"
fi
fit=("$python" cli.py fit --config configs/demo.yaml --trainer.accelerator gpu --trainer.devices 1 --trainer.max_epochs 2)
run correctness 4 "$python" -m pytest -q -m gpu tests
run phantom 1 "$python" cli.py phantom --output data/phantom
run nccl 2 "${fit[@]}" --trainer.strategy ddp --trainer.precision bf16-mixed
run fsdp 2 "${fit[@]}" --trainer.strategy fsdp --trainer.precision bf16-mixed
run inference 5 "$python" cli.py benchmark --device cuda --sizes 224 512 1024 2048 --precision fp32 bf16 --compile true --repeats 3 \
    --output "$out/inference"
run training 5 "$python" cli.py benchmark --device cuda --sizes 224 512 1024 --precision fp32 bf16 --backward true --repeats 3 \
    --output "$out/training"
if [ -d data/hippocampus ] || ! $gpu; then
    run hippocampus 6 "$python" cli.py fit --config configs/hippocampus.yaml --trainer.max_time 00:00:05:00 \
        --trainer.precision bf16-mixed
fi

$gpu || exit 0
{
    cat "$out/steps.csv"
    for kind in inference training; do
        [ -f "$out/$kind/benchmark.csv" ] && sed "s/^/$kind,/" "$out/$kind/benchmark.csv"
    done
} | column -s, -t | tee "$out/table.txt"
