#!/bin/sh
# Makes the lock files anew: one universal, hash-pinned file for each kind of machine. Needs uv and the package index.
set -eu
cd "$(dirname "$0")/.."
compile() {
    out=$1; shift
    uv pip compile --universal --python-version 3.11 --quiet --no-header --no-annotate --generate-hashes \
        --no-emit-index-url pyproject.toml --output-file "requirements/$out" "$@"
}
all="--extra service --extra worker --extra openvino --extra training --extra local --extra bench --extra test --extra dev"
# shellcheck disable=SC2086
compile all.txt $all
compile service.txt --extra service --constraint requirements/all.txt
compile worker.txt --extra worker --extra openvino --constraint requirements/all.txt
compile service-test.txt --extra service --extra local --extra test --constraint requirements/all.txt
