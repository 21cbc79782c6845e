#!/usr/bin/env bash
# Runs as root inside the container of nspawn.sh: the units start, the agent is ready, takes a push over its socket,
# keeps what it has over a kill, and is restarted when it hangs.
set -euo pipefail

fail() {
    echo "FAILED: $*"
    systemctl status --no-pager --full edgepush.service edgepush.socket || true
    journalctl --no-pager -b -u edgepush.service | tail -50 || true
    exit 1
}
passed() { echo "passed: $*"; }
property() { systemctl show -p "$1" --value edgepush.service; }
# Waits until a command succeeds, at most so many seconds.
within() {
    local seconds=$1
    shift
    for _ in $(seq $((seconds * 10))); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}
is_active() { [ "$(property ActiveState)" = active ]; }
has_another_pid() { is_active && [ "$(property MainPID)" != "$1" ]; }
# An ordinary user who is a member of the group, and one who is not.
operator() { setpriv --reuid=nobody --regid=nogroup --groups="$(getent group edgepush | cut -d: -f3)" "$@"; }
stranger() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
md5() { md5sum "/srv/origin/$1" | cut -d' ' -f1; }

ip link set lo up
systemd-sysusers
mkdir -p /etc/edgepush/conf.d /etc/systemd/system/edgepush.service.d
printf '[fetch]\nallow = ["127.0.0.0/8"]\n' >/etc/edgepush/conf.d/test.toml
printf '[Service]\nWatchdogSec=3\n' >/etc/systemd/system/edgepush.service.d/test.conf
systemctl daemon-reload
systemd-run --quiet --unit=origin --working-directory=/srv/origin python3 -m http.server --bind 127.0.0.1 8099
site="site@1.0=http://127.0.0.1:8099/site-1.0.tar.gz#md5=$(md5 site-1.0.tar.gz)"
catalog="catalog@1.0=http://127.0.0.1:8099/catalog-1.0.zip#md5=$(md5 catalog-1.0.zip)"

# 1. The socket is there before the service, and the service says when it is ready.
systemctl start edgepush.socket || fail "edgepush.socket does not start"
[ "$(stat -c '%U:%G %a' /run/edgepush/edgepush.sock)" = "edgepush:edgepush 660" ] || fail "owner or mode of the socket"
systemctl start edgepush.service || fail "edgepush.service does not start"
is_active || fail "not active after the start"
[ -n "$(property StatusText)" ] || fail "no status text"
passed "starts and says that it is ready: $(property StatusText)"

# 2. It takes a push over its socket from a member of the group, and from nobody else.
within 5 curl -sf -o /dev/null http://127.0.0.1:8099/ || fail "the origin does not answer"
operator edgepush push quickstart "$site" || fail "the push"
tree=/var/lib/edgepush/data/quickstart/site/current
[ -f $tree/index.html ] || fail "nothing is published"
[ "$(stat -c %U $tree/index.html)" = edgepush ] || fail "owner of the tree"
[ "$(stat -c %a /var/lib/edgepush)" = 750 ] || fail "mode of the state directory"
if stranger edgepush status >/dev/null 2>&1; then fail "a stranger may ask"; fi
passed "takes a push over its socket from its group alone"

# 3. A reload keeps the process.
pid=$(property MainPID)
systemctl reload edgepush.service || fail "reload"
within 5 is_active || fail "not active after the reload"
[ "$(property MainPID)" = "$pid" ] || fail "the reload started another process"
passed "reloads in place"

# 4. A kill is survived: clients wait meanwhile, what was published is known, the next push works.
kill -9 "$pid"
operator edgepush ls || fail "a client that came during the restart was refused"
within 10 has_another_pid "$pid" || fail "not restarted after a kill"
operator edgepush push quickstart "$site" "$catalog" || fail "the push after the kill"
[ -f /var/lib/edgepush/data/quickstart/catalog/current/README.txt ] || fail "nothing is published after the kill"
passed "survives a kill"

# 5. A hung process is found by the watchdog and replaced.
pid=$(property MainPID)
kill -STOP "$pid"
within 20 has_another_pid "$pid" || fail "the watchdog did not act"
[ "$(property NRestarts)" -ge 2 ] || fail "restarts are $(property NRestarts)"
passed "a hung process is replaced"

# 6. A stop drains and ends with success, and at once when nothing is at work.
started=$SECONDS
systemctl stop edgepush.service || fail "stop"
[ $((SECONDS - started)) -le 3 ] || fail "an idle agent took $((SECONDS - started)) s to stop"
[ "$(property Result)" = success ] || fail "the stop ended with $(property Result)"
passed "drains"

# 7. A wrong configuration is told once and not tried again.
printf 'listn = 1\n' >/etc/edgepush/conf.d/wrong.toml
if systemctl start edgepush.service 2>/dev/null; then fail "starts with a wrong configuration"; fi
[ "$(property ExecMainStatus)" = 78 ] || fail "ended with $(property ExecMainStatus)"
sleep 2
[ "$(property ActiveState)" = failed ] || fail "tried again with a wrong configuration"
passed "a wrong configuration is not tried again"

echo "ALL PASSED"
