#!/bin/sh
# Print the Python to make the virtual environment with, or say what is missing. $1: the only one to try, if any.
set -u

suits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
for candidate in ${1:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c "$suits" 2>/dev/null; then
        python=$candidate
        break
    fi
done

fail() {
    printf 'make: %s\n' "$@" >&2
    exit 1
}

[ -n "${python:-}" ] || fail \
    "taskgraph needs Python 3.11, 3.12 or 3.13; tried: ${1:-python3 python3.13 python3.12 python3.11}" \
    "install one, or name it: make PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail \
    "$python cannot make virtual environments" \
    "on Debian and Ubuntu: apt-get install python$version-venv"
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || fail \
    "the headers of $python are missing (Python.h), and the extension is compiled against them" \
    "on Debian and Ubuntu: apt-get install python$version-dev"
command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || fail \
    "there is no C compiler" \
    "on Debian and Ubuntu: apt-get install gcc libc6-dev"
command -v "$python"
