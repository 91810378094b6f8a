#!/usr/bin/env bash
# The tests of the PaddleSeg plugin, in an environment of their own that has PaddleSeg's wheel: the suite pins versions
# that the rest of the tests need not have. Arguments go to pytest:
#
#     tests/plugins/suites.sh                  what the gate runs, without downloads but those of pip
#     tests/plugins/suites.sh -m slow -s       the trainings, and what takes long
#     PADDLESEG=CHECKOUT tests/plugins/suites.sh -m slow -s     those in a source checkout too
#
# The environment is kept in ${XDG_CACHE_HOME:-~/.cache}/ppreplk, under a name that changes with what it installs. It is
# made anew if it is not whole.
set -euo pipefail
cd "$(dirname "$0")/../.."
extras=(".[cpu,segmentation]" "pytest>=7" pytest-timeout)
key=$({ python3 --version; echo "${extras[@]}"; cat pyproject.toml setup.py; } | sha256sum | cut -c 1-12)
place=${XDG_CACHE_HOME:-$HOME/.cache}/ppreplk/paddleseg-$key
mkdir -p "$(dirname "$place")"
exec 9> "$place.lock"
if command -v flock > /dev/null; then flock 9; fi  # a second run waits until the environment is made
if ! "$place/bin/python" -c "import paddle, paddleseg, pytest, pytest_timeout" > "$place.log" 2>&1; then
    echo "making $place, see $place.log"
    rm -rf "$place"
    if ! { python3 -m venv "$place" && "$place/bin/python" -m pip install "${extras[@]}" &&
        "$place/bin/python" -m pip uninstall -y ppreplk; } >> "$place.log" 2>&1; then
        tail -n 20 "$place.log" >&2
        exit 1
    fi
fi
exec 9>&-
PYTHONPATH=$PWD OMP_NUM_THREADS=1 exec "$place/bin/python" -m pytest -q tests/plugins/paddleseg "$@"
