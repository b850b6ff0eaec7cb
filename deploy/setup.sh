#!/bin/sh
# setup.sh PYTHON VENV LOCK: a virtual environment with exactly the locked packages and this project, editable.
set -eu
python=$1 venv=$2 lock=$3
uv_version=0.13.9

stop() {
    printf '\n%s\n' "$1" >&2
    exit 1
}

[ -n "$python" ] || stop "Python 3.11 or 3.12 is needed and none was found. Install one (Debian/Ubuntu: sudo apt-get install
python3 python3-venv; macOS: brew install python@3.12), or name yours: make PYTHON=/path/to/python3.12 ..."

echo "setting up $venv (once)"
"$python" -m venv "$venv" || stop "Python could not make a virtual environment. On Debian/Ubuntu:
  sudo apt-get install python3-venv
then run the same command again."

bin=$venv/bin
log=$venv/setup.log
"$bin/python" -m pip install --quiet "uv==$uv_version" >"$log" 2>&1 || echo "uv is not to be had; using pip, which is slower"

install() {
    if [ -x "$bin/uv" ]; then
        "$bin/uv" pip install --quiet --python "$bin/python" "$@"
    else
        "$bin/python" -m pip install --quiet "$@"
    fi
}

echo "installing the locked packages ($lock) ..."
install --require-hashes -r "$lock" >>"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    stop "The packages could not be installed; the whole log is $log. Check the network, proxy and free disk space (10 GB),
then run the same command again: what was fetched already is kept."
}
install --no-deps --no-build-isolation -e . >>"$log" 2>&1 || { tail -n 5 "$log" >&2; stop "The project itself could not be installed; see $log."; }
touch "$venv/.ready"
echo "packages are in"
