#!/usr/bin/env bash
# Boots a real systemd in a container over an overlay of this machine, with the shipped units and the built binary, and
# runs tests/systemd/inside.sh there. Needs root and systemd-container; says so and passes where it may not mount, since
# a container without that right cannot hold another.
#
#   tests/systemd/nspawn.sh [BINARY]       default: target/debug/edgepush
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=${1:-target/debug/edgepush}

skip() {
    echo "SKIPPED: $1"
    exit 0
}
# Under CI only a machine that cannot do it at all is excused.
need() {
    if [ "${CI:-}" = true ]; then
        echo "FAILED: $1" >&2
        exit 1
    fi
    skip "$1"
}

[ "$(id -u)" = 0 ] || skip "a container needs root"
command -v systemd-nspawn >/dev/null || need "systemd-nspawn is not installed (package systemd-container)"
[ -x /lib/systemd/systemd ] || need "systemd is not installed (package systemd-sysv)"
[ -x "$binary" ] || { echo "no binary at $binary: cargo build" >&2; exit 1; }

work=$(mktemp -d /var/tmp/edgepush-systemd.XXXXXX)
root=$work/layers/merged
cleanup() {
    umount "$root" 2>/dev/null || true
    umount "$work/layers" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
mkdir "$work/layers"
# The changes live in memory: the machine's own file system may be an overlay already.
mount -t tmpfs -o size=2g edgepush-test "$work/layers" 2>/dev/null || skip "this machine may not mount"
mkdir "$work/layers/upper" "$work/layers/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layers/upper,workdir=$work/layers/work" "$root" 2>/dev/null ||
    skip "this machine may not mount an overlay"

units=$root/etc/systemd/system
install -D -m755 "$binary" "$root/usr/bin/edgepush"
install -D -m644 -t "$units" systemd/edgepush.service systemd/edgepush.socket
install -D -m644 -t "$root/usr/lib/sysusers.d" systemd/sysusers.d/edgepush.conf
install -D -m644 -t "$root/etc/edgepush" config/edgepush.toml
install -D -m644 -t "$root/srv/origin" config/quickstart/*.tar.gz config/quickstart/*.zip
install -D -m755 tests/systemd/inside.sh "$root/usr/local/bin/inside.sh"
cat >"$units/inside.service" <<UNIT
[Unit]
After=basic.target
[Service]
Type=oneshot
Environment=SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 NO_COLOR=1
ExecStart=/usr/local/bin/inside.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
UNIT
cat >"$units/inside.target" <<UNIT
[Unit]
Requires=basic.target dbus.socket
Wants=inside.service
After=basic.target
AllowIsolate=yes
UNIT

log=$work/log
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout 180 systemd-nspawn -q --register=no --keep-unit -D "$root" --private-network \
    -b systemd.unit=inside.target systemd.show_status=0 </dev/null 2>&1 | tr -d '\r' | tee "$log" || true
grep -q '^ALL PASSED$' "$log"
