#!/bin/sh
# Says what the tests of live machines miss; as root on Debian, installs it.
missing=""
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v gdb >/dev/null || missing="$missing gdb"
command -v makedumpfile >/dev/null || missing="$missing makedumpfile"
/usr/bin/python3 -c "import kdumpfile" 2>/dev/null || missing="$missing python3-libkdumpfile"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    # shellcheck disable=SC2086 # one word per package
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
        >/dev/null && exit 0
fi
echo "not installed:$missing (on Debian: apt-get install$missing); the tests that want them are skipped" >&2
exit 1
