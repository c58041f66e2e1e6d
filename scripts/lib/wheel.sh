# What ships: the built wheel, installed without the source tree; sourced by the scripts beside it.

# Modules that are imported only where their library is: what each may lack.
runtime_modules=(
    --only-needs packhorse_agent.runtime.executorch=torch
    --only-needs packhorse_agent.runtime.litert=ai_edge_litert
    --only-needs packhorse_agent.runtime.onnxruntime_cpu=onnxruntime
    --only-needs packhorse_agent.runtime.pytorch_mobile=torch
    --only-needs packhorse_agent.runtime.tflite_runtime=tflite_runtime
    --only-needs packhorse_agent.runtime.torch_tensors=torch
)

# build_wheel VENV FOLDER: build the wheel into FOLDER and print its path.
build_wheel() {
    "$1/bin/python" -m build --wheel --outdir "$2" "$repository" </dev/null >"$2/build.log" 2>&1 ||
        { cat "$2/build.log" >&2; fail "the wheel cannot be built"; }
    printf '%s\n' "$2"/packhorse-*.whl
}

# check_wheel WHEEL PYTHON FOLDER: install it with the host's extra, and do a first piece of real work.
check_wheel() {
    local wheel=$1 python=$2 folder=$3 bin=$3/host/bin
    make_venv "$folder/host" "$python" "$wheel[host]"
    mkdir -p "$folder/work"
    cp -r "$repository/samples/fashion-mnist" "$folder/work/sample"
    (
        cd "$folder/work"
        "$bin/packhorse" --version
        "$bin/packhorse" --help >/dev/null
        "$bin/packhorse-agent" --help >/dev/null
        "$bin/packhorse" profile list
        "$bin/packhorse" pack sample/model.onnx --name fashion --version 1.0 --profile raspberry-pi-5 \
            --calibration sample/calibration.npz --evaluation sample/evaluation.npz -o bundles
        "$bin/python" "$repository/scripts/lib/check_imports.py" packhorse_agent packhorse_host \
            "${runtime_modules[@]}"
    )
}

# check_agent_only WHEEL PYTHON FOLDER: with the agent's extra alone, every module of it can be imported.
check_agent_only() {
    make_venv "$3/agent" "$2" "$1[agent]"
    (
        cd "$3"
        agent/bin/python "$repository/scripts/lib/check_imports.py" packhorse_agent \
            "${runtime_modules[@]}"
        agent/bin/packhorse-agent --help >/dev/null
    )
}
