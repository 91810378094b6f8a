#!/usr/bin/env bash
# The tests of the PaddleX plugin, in an environment of their own that has PaddleX: it pins versions that do not go with
# paddleclas. The gate does not run them. Arguments go to pytest:
#
#     tests/plugins/paddlex.sh
#     tests/plugins/paddlex.sh -k server
#
# environment.sh says where the environment is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/plugins/environment.sh
# PaddleX brings the rest of what this package needs; onnx and onnxruntime are for its engine onnxruntime
make_environment paddlex "paddle, paddlex, fastapi, onnx, onnxruntime, sklearn, pytest, pytest_timeout" \
    "paddlepaddle>=3.1,<4" "paddlex[cv,serving]>=3.7,<4" threadpoolctl safetensors scikit-learn onnx onnxruntime \
    "pytest>=7" pytest-timeout
PYTHONPATH=$PWD OMP_NUM_THREADS=1 exec "$place/bin/python" -m pytest -q tests/plugins/test_paddlex.py "$@"
