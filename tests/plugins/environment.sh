# For the scripts beside it, which source it at the repository's root.
#
#     make_environment NAME MODULES REQUIREMENT...
#
# makes a virtual environment with the requirements, unless there is a whole one that can import MODULES, and sets $place
# to its folder. It is kept in ${XDG_CACHE_HOME:-~/.cache}/ppreplk, under a name that changes with what it installs.
# This package is not in it: the tests take it from PYTHONPATH.
make_environment() {
    local name=$1 modules=$2
    shift 2
    local key
    key=$({ python3 --version; echo "$@"; cat pyproject.toml setup.py; } | sha256sum | cut -c 1-12)
    place=${XDG_CACHE_HOME:-$HOME/.cache}/ppreplk/$name-$key
    mkdir -p "$(dirname "$place")"
    exec 9> "$place.lock"
    if command -v flock > /dev/null; then flock 9; fi  # a second run waits until the environment is made
    if ! "$place/bin/python" -c "import $modules" > "$place.log" 2>&1; then
        echo "making $place, see $place.log"
        rm -rf "$place"
        if ! { python3 -m venv "$place" && "$place/bin/python" -m pip install "$@" &&
            "$place/bin/python" -m pip uninstall -y ppreplk; } >> "$place.log" 2>&1; then
            tail -n 20 "$place.log" >&2
            exit 1
        fi
    fi
    exec 9>&-
}
