#!/usr/bin/env bash
# One push of one archive, as a contestant in a paired timing: fetched from $URL ($SIZE bytes, $MD5) and published below $D,
# with the tree as $D/out at the end. Everything is a fresh start: database, keys, directories, status.
#
#   EDGEPUSH=target/release/edgepush  the binary        DURABLE=1  with all syncs; without, only the database is synced
set -euo pipefail
case $URL in *.zip) kind=zip ;; *) kind=tar.gz ;; esac
cat >"$D/push.json" <<JSON
{"AppId":"bench","Data":[{"name":"x","version":"1","archiveType":"$kind","size":$SIZE,"md5":"$MD5","url":"$URL","timeout":600}]}
JSON
export EDGEPUSH_FETCH__ALLOW='["127.0.0.0/8"]'
[ -n "${DURABLE:-}" ] || export EDGEPUSH_PUBLISH__DURABLE=false
"$EDGEPUSH" --data-dir "$D/data" apply "$D/push.json" >"$D/log" 2>&1 || { cat "$D/log" >&2 && exit 1; }
rm -rf "$D/out"
ln -s "$D/data/data/bench/x/versions/1" "$D/out"
