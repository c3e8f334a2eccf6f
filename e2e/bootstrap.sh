#!/usr/bin/env bash
# Make a virtual environment with everything in tests/requirements.lock, the tests' model and this checkout.
# Usage: bootstrap.sh VENV UV_VERSION. Says what it does; installs python3-venv and g++ where Debian lacks them.
set -euo pipefail
venv=$1 uv_version=$2
started=$SECONDS
bold='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
say() { printf '%s[venv +%3ds]%s %s\n' "$bold" "$((SECONDS - started))" "$plain" "$*" >&2; }

debian() { # install a Debian package where that can be done
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "installing $1"
  local patient=(-o DPkg::Lock::Timeout=300)
  apt-get "${patient[@]}" update -qq &&
    DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get "${patient[@]}" install -y -qq --no-install-recommends "$1" </dev/null >/dev/null
}

python=
for candidate in python3 python3.12 python3.11 python3.13; do # a name on PATH may be a version manager's empty shim
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11, 3.12 or 3.13 is needed; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2
  exit 1
fi
if [ ! -x "$venv/bin/pip" ]; then
  if ! "$python" -c 'import ensurepip' 2>/dev/null && ! debian python3-venv; then
    echo "Python's venv module is missing; run: sudo apt-get install python3-venv" >&2
    exit 1
  fi
  say "creating $venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi
if ! command -v "${CXX:-g++}" clang++ c++ >/dev/null && ! debian g++; then
  say "there is no C++ compiler: the engine computes with torch, slower, and the tests of its own kernels are" \
    "skipped; to have both, run: sudo apt-get install g++"
fi
if ! "$venv/bin/uv" --version 2>/dev/null | grep -q " $uv_version\b"; then
  say "installing uv $uv_version"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check "uv==$uv_version"
fi
say "installing $(grep -c '==' tests/requirements.lock) packages (about 6 GB on disk, torch included)"
uv() { "$venv/bin/uv" pip install --python "$venv/bin/python" "$@"; }
cache=$("$venv/bin/uv" cache dir)
heartbeat() { # how much there is by now, where uv draws no bars
  while sleep 10; do
    say "$(du -scm "$venv" "$cache" 2>/dev/null | awk 'END {printf "%.1f GB so far", $1 / 1000}')"
  done
}
install() {
  if [ -t 2 ]; then
    uv "$@"
    return
  fi
  heartbeat &
  beating=$!
  trap 'kill "$beating" 2>/dev/null || true' EXIT
  uv --quiet "$@"
  kill "$beating"
  wait "$beating" 2>/dev/null || true
}
install --require-hashes -r tests/requirements.lock
install --require-hashes --no-deps -r tests/model.lock
install --no-deps -e .
compiled='import sys; from slipway_engine.native.library import library_path; sys.exit(library_path() is None)'
if command -v "${CXX:-g++}" clang++ c++ >/dev/null && ! "$venv/bin/python" -c "$compiled"; then
  say "compiling the engine's kernels for CPUs"
  "$venv/bin/python" -m slipway_engine.native.build >/dev/null
fi
say "ready"
