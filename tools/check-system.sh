#!/bin/sh
# Says what this machine lacks to build ptcore, each with the Debian or Ubuntu package that brings it,
# and prints the Python interpreter to use. Other systems name the packages much the same.
set -u
missing=0
lack() {
    echo "missing: $1 (Debian, Ubuntu: apt install $2)" >&2
    missing=1
}

python=""
for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$name
        break
    fi
done
if [ -z "$python" ]; then
    lack "Python 3.11 or newer" "python3 python3-dev python3-venv"
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || lack "Python's venv module" python3-venv
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        lack "Python's C headers (Python.h)" python3-dev
fi
compiler=${CC:-cc}
# The compiler's own test: it may be there without the C library's headers.
if ! command -v "$compiler" >/dev/null 2>&1; then
    lack "a C compiler ($compiler)" gcc
elif ! echo '#include <stdlib.h>' | "$compiler" -xc -fsyntax-only - 2>/dev/null; then
    lack "the C library's headers" libc6-dev
fi
[ "$missing" = 0 ] || exit 1
echo "$python"
