#!/usr/bin/env bash
# The tests of the PaddleSeg plugin, in an environment of their own that has PaddleSeg's wheel: the suite pins versions
# that the rest of the tests need not have. Arguments go to pytest:
#
#     tests/plugins/suites.sh                  what the gate runs, without downloads but those of pip
#     tests/plugins/suites.sh -m slow -s       the trainings, and what takes long
#     PADDLESEG=CHECKOUT tests/plugins/suites.sh -m slow -s     those in a source checkout too
#
# environment.sh says where the environment is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/plugins/environment.sh
make_environment paddleseg "paddle, paddleseg, pytest, pytest_timeout" ".[cpu,segmentation]" "pytest>=7" pytest-timeout
PYTHONPATH=$PWD OMP_NUM_THREADS=1 exec "$place/bin/python" -m pytest -q tests/plugins/paddleseg "$@"
