# infer_freeanchor_fp16_accuracy.sh and infer_freeanchor_fp16_performance.sh source this file.
#
# It reads these variables of the environment:
#   DATASETS_DIR  folder of COCO (images/val2017, annotations/instances_val2017.json), for accuracy
#   MODEL         the graph; default: output/freeanchor_r50_opt_bs_32_fp16.onnx in
#                 playground/free_anchor.res50.1x.mmdet
#   WEIGHTS       checkpoint from which MODEL is exported if it does not exist
#   EXPERIMENT    folder; default: playground/free_anchor.res50.1x.mmdet, for which mmdetection
#                 published weights
#   BATCH, SIZE   batch and image size of the export; default: 32 and 800x1344
# Further arguments are passed to pods_infer: --provider cuda --target-ap 35 --target-fps 69.7

# infer MODE [arguments of pods_infer]: export the graph if it is missing, then run pods_infer.
infer() {
    local mode=$1 experiment=${EXPERIMENT:-$ROOT/playground/free_anchor.res50.1x.mmdet}
    local model=${MODEL:-$ROOT/playground/free_anchor.res50.1x.mmdet/output/freeanchor_r50_opt_bs_32_fp16.onnx}
    shift
    if [ ! -f "$model" ] && [ -z "${WEIGHTS:-}" ]; then
        echo "error: the graph $model does not exist." >&2
        echo "       Name one (MODEL=x.onnx), or weights to export it from (WEIGHTS=x.pth)." >&2
        return 1
    fi
    VENV=${CVPODS_VENV:-$ROOT/.venv}
    # Install only what is missing, so that an installed onnxruntime-gpu stays.
    if ! "$VENV/bin/python" -c 'import cvpods_ext, onnx, onnxruntime, onnxscript, onnxslim' \
        >/dev/null 2>&1; then
        (cd "$ROOT" && . scripts/setup_env.sh && ensure_environment deploy)
    fi
    if [ ! -f "$model" ]; then
        "$VENV/bin/pods_export" --dir "$experiment" --weights "$WEIGHTS" --output "$model" --half \
            --simplify --overwrite-input-shape "input:${BATCH:-32},3,$(tr x , <<<"${SIZE:-800x1344}")"
    fi
    "$VENV/bin/pods_infer" --dir "$experiment" --model "$model" --mode "$mode" "$@"
}
