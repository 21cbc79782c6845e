#!/usr/bin/env bash
# Many small archives through the agent, as a contestant in a paired timing: $LIST has a line `url md5 size name` for each. An
# agent is started below $D, gets all of them in one push, and the push is followed until every file has ended.
#
#   EDGEPUSH=target/release/edgepush  the binary        DURABLE=1  with all syncs; without, only the database is synced
set -euo pipefail
export EDGEPUSH_FETCH__ALLOW='["127.0.0.0/8"]'
[ -n "${DURABLE:-}" ] || export EDGEPUSH_PUBLISH__DURABLE=false
items=()
while read -r url md5 size name; do
    items+=("t$name@1=$url#md5=$md5&size=$size")
done <"$LIST"
"$EDGEPUSH" --data-dir "$D/data" --socket "$D/socket" agent >"$D/agent.log" 2>&1 &
agent=$!
trap 'kill $agent && wait $agent' EXIT
until [ -S "$D/socket" ]; do sleep 0.005; done
"$EDGEPUSH" --socket "$D/socket" push bench "${items[@]}" >"$D/log" 2>&1 || { tail -n 5 "$D/log" "$D/agent.log" >&2 && exit 1; }
