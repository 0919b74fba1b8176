#!/bin/sh
# Make .venv hold what requirements.lock pins. `make` runs this when it must; running it again does no harm.
#
# Needs a package registry and a Python >= 3.11 with venv: $PYTHON, or else the first of python3.13 … python3 that
# will do. Whatever is missing is said in one sentence. The last act is to touch .venv/installed, which an interrupted
# run lacks.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }

# Run it rather than look it up: version managers put names on PATH that do not work.
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if [ -n "${PYTHON:-}" ]; then
    recent "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer."
else
    for PYTHON in python3.13 python3.12 python3.11 python3 ''; do
        [ -n "$PYTHON" ] ||
            fail "Python 3.11 or newer was not found; on Debian: apt install python3-venv; or name one: PYTHON=…"
        if recent "$PYTHON"; then break; fi
    done
fi

"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot make virtual environments; on Debian: apt install" \
        "$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"

# 7 GB: PyTorch with its CUDA libraries. What an earlier run has already put there counts.
present=$(du -sk .venv 2>/dev/null | cut -f1) || present=0
free=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ $((free + ${present:-0})) -ge 7000000 ] ||
    fail "the environment needs about 7 GB of disk space in $PWD and only $((free / 1000000)) GB are free."

echo "setup: installing requirements.lock into .venv (3 GB to download the first time)"
rm -f .venv/installed
recent .venv/bin/python || "$PYTHON" -m venv --clear .venv || fail "$PYTHON -m venv failed; the lines above say why."
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null ||
    fail ".venv has no pip and cannot get one; remove it (make clean-env) and try again."

# Out of the lock come the version and the hashes of uv, which installs the rest many times faster than pip.
awk '/^uv==/ { on = 1 } on { print } on && !/\\$/ { exit }' requirements.lock >.venv/uv.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.txt ||
    fail "uv could not be installed: the package registry was not reached, or refused; the lines above say which."

UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" .venv/bin/python -m uv pip install --python .venv/bin/python \
    --require-hashes --requirement requirements.lock ||
    fail "the packages could not be installed: the registry was not reached, or the disk is full; see above."

# Bytecode now: where PYTHONDONTWRITEBYTECODE is set, every job would compile torch anew. uv's --compile-bytecode, once
# interrupted, leaves the rest uncompiled for good; compileall goes on. A package may hold files that are not Python 3.
echo "setup: compiling bytecode (half a minute)"
.venv/bin/python -m compileall -qq -j 0 .venv/lib || true

touch .venv/installed
