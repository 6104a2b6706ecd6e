#!/usr/bin/env bash
# demo.sh BIN - three QKD nodes in a line on this machine, and a key that the two ends have: key request,
# key relay and key supply (Appendix I.5a of ITU-T Q.4160). Needs no privilege, leaves nothing running.
# `make demo` runs it. QKDN_DEMO_SVG=FILE draws the messages into FILE.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${1:-build/bin}")
work=$(mktemp -d "${TMPDIR:-/tmp}/qkdn-demo-XXXXXX")
lab=$work/lab
up=

finish() {
	status=$?
	trap - EXIT
	[ -z "$up" ] || "$bin/qkdn-lab" down "$lab" || status=1
	if [ $status -eq 0 ]; then
		rm -rf "$work"
		echo "demo: ok - $number keys of $size bits requested at alice, relayed over bob, fetched by ID at carol, and equal"
	else
		echo "demo: FAILED (status $status); logs and traces are below $work"
	fi
	exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
as() { # as APP COMMAND...: with the application's certificate and key manager
	local app=$1
	shift
	(eval "$("$bin/qkdn-lab" env "$lab" "$app")" && cd "$work" && exec "$@")
}

number=3 size=256

say "Three nodes in a line, alice - bob - carol, over QKD links of 20 and 30 km (examples/line-of-3.conf)"
"$bin/qkdn-lab" up examples/line-of-3.conf "$lab" # cleans up after itself where it fails
up=yes
"$bin/qkdn-lab" status "$lab"

sleep 1.5 # the controllers learn of the links' first keys, so that the ladder is that of the figure

say "app1 at alice requests $number keys of $size bits to share with app2 at carol (Ak)"
echo "\$ qkdn-keyreq get --to app2 -n $number -s $size --timeout 20 --out keys-of-app1"
as app1 "$bin/qkdn-keyreq" get --to app2 -n "$number" -s "$size" --timeout 20 --out keys-of-app1 | tee "$work/ids"

say "app2 at carol fetches the same keys by their IDs"
echo "\$ qkdn-keyreq get-by-id --from app1 --out keys-of-app2 ID…"
as app2 "$bin/qkdn-keyreq" get-by-id --from app1 --out keys-of-app2 - <"$work/ids"

say "The keys are in files that only their owner can read, and the two sides have the same"
for key in "$work"/keys-of-app1/*; do
	cmp "$key" "$work/keys-of-app2/$(basename "$key")"
done
[ "$(ls "$work/keys-of-app1" | wc -l)" -eq "$number" ]
[ "$(ls "$work/keys-of-app2" | wc -l)" -eq "$number" ]
ls -l "$work/keys-of-app2"

say "The messages that went over the reference points (qkdnctl trace)"
if [ -t 1 ] && [ "$(tput cols 2>/dev/null || echo 80)" -lt 236 ]; then # too narrow for seven actors
	"$bin/qkdnctl" trace --lines "$lab"
else
	"$bin/qkdnctl" trace "$lab"
fi
[ -z "${QKDN_DEMO_SVG:-}" ] || "$bin/qkdnctl" trace --svg "$QKDN_DEMO_SVG" \
	--title "A key between two nodes without a QKD link, on demand (I.5a)" "$lab"
