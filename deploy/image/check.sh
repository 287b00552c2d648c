#!/usr/bin/env bash
# Build the service image without a container engine and check it: it starts as user 65532 with a
# read-only root and no shell in between, is healthy, answers the README's request on the native
# library, serves the documentation without other hosts, sends no telemetry, drains at SIGTERM, has
# no compiler, and stays under 450 MB.
# The check needs root, buildah, debootstrap and curl (Debian packages).
#
#   deploy/image/check.sh                       uses a Debian base made by debootstrap, pulls nothing
#   BASE=localhost/mine deploy/image/check.sh   uses another local base
#
# pip in the build uses the caller's PIP_CONFIG_FILE and SSL_CERT_FILE, if they are set.
set -euo pipefail
cd "$(dirname "$0")/../.."
BASE=${BASE:-localhost/python:3.11-slim}
PORT=${PORT:-8017}
MAX_MB=450
work=$(mktemp -d)
container=""
server=""

finish() {
  [ -z "$server" ] || pkill -P "$server" || true
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$container" ] || buildah rm "$container" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

say() { printf '%s\n' "image: $*"; }

if ! buildah inspect --type image "$BASE" >/dev/null 2>&1; then
  say "making $BASE"
  debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    bookworm "$work/root" >"$work/debootstrap.log" || { tail -5 "$work/debootstrap.log"; exit 1; }
  rm -rf "$work/root/var/cache/apt/archives"/*.deb "$work/root/var/lib/apt/lists"/*
  scratch=$(buildah from scratch)
  buildah add --quiet "$scratch" "$work/root" /
  buildah commit --quiet --format docker "$scratch" "$BASE"
  buildah rm "$scratch" >/dev/null
fi

mounts=()
for file in "${PIP_CONFIG_FILE:-}" "${SSL_CERT_FILE:-}"; do
  [ -z "$file" ] || mounts+=(--volume "$file:$file:ro")
done
[ -z "${PIP_CONFIG_FILE:-}" ] || mounts+=(--env "PIP_CONFIG_FILE=$PIP_CONFIG_FILE")
[ -z "${SSL_CERT_FILE:-}" ] || mounts+=(--env "PIP_CERT=$SSL_CERT_FILE")
say "building service-cpu"
buildah bud --quiet --isolation chroot --format docker --pull-never --build-arg "BASE=$BASE" \
  "${mounts[@]}" --target service-cpu --tag eglr-rerank . >"$work/build.log" 2>&1 ||
  { tail -20 "$work/build.log"; exit 1; }

container=$(buildah from --pull-never eglr-rerank)
root=$(buildah mount "$container")
size=$(du -sm "$root" | cut -f1)
say "size: $size MB (at most $MAX_MB)"
[ "$size" -le "$MAX_MB" ]
compilers=$(find "$root" -xdev \( -path '*/bin/*++*' -o -path '*/bin/*gcc*' -o -path '*/bin/make' \
  -o -name cc1plus \))
say "compilers: ${compilers:-none}"
[ -z "$compilers" ]
libraries=$(cd "$root/venv/lib" && find . -name 'libeglr_rerank_native.*.so' -printf '%f %s bytes, ')
say "native library: ${libraries%, }"
[ -n "$libraries" ]

inspected=$(buildah inspect "$container")
config() { # Python arguments of print, with the image's configuration as c
  python3 -c "import json,sys; c=json.load(sys.stdin)['Docker']['config']; print($1)" <<<"$inspected"
}
user=$(config 'c["User"]')
say "user: $user"
[ "$user" = 65532:65532 ]
mapfile -t health < <(config '*c["Healthcheck"]["Test"][1:], sep="\n"')
mapfile -t command < <(config '*c["Cmd"], sep="\n"')
mapfile -t environment < <(config '*c["Env"], sep="\n"')

# Run a command as an engine would: own mounts, read-only root, a small /tmp, user 65532.
inside() { # command...
  unshare --mount --propagation private sh -c '
    root=$1; shift
    mount --bind "$root" "$root" && mount -o remount,ro,bind "$root"
    mount -t tmpfs -o size=64m tmpfs "$root/tmp"
    mount --rbind /proc "$root/proc" && mount --rbind /dev "$root/dev"
    exec chroot --userspec=65532:65532 --groups= "$root" env -i -C /app "$@"
    ' sh "$root" PATH=/usr/bin:/bin "${environment[@]}" \
    RERANK_HOST=127.0.0.1 "RERANK_PORT=$PORT" RERANK_DRAIN_S=2 "$@"
}

inside "${command[@]}" 2>"$work/log" &
server=$!
for _ in $(seq 60); do
  curl -fs "http://127.0.0.1:$PORT/readyz" >/dev/null && break
  kill -0 "$server" || { cat "$work/log"; exit 1; }
  sleep 0.5
done
say "ready: $(curl -fs "http://127.0.0.1:$PORT/readyz")"
backend=$(curl -fs "http://127.0.0.1:$PORT/info" |
  python3 -c 'import json,sys; print(json.load(sys.stdin)["backend"]["name"])')
say "backend: $backend"
[ "$backend" = native ]
body=$(sed -n "/rerank -d '/,/}'/p" README.md | sed "1d;s/}'\$/}/")
slate=$(curl -fs "http://127.0.0.1:$PORT/rerank" -d "$body" | python3 -c 'import json,sys; print([e["id"] for e in json.load(sys.stdin)["slate"]])')
say "README's slate: $slate"
[ "$slate" = "['1036', '589', '480']" ]

# The page names its scripts and styles by paths, and each of them is served.
mapfile -t assets < <(curl -fs "http://127.0.0.1:$PORT/docs" | grep -oE '(src|href)="[^"]+"' | cut -d'"' -f2)
say "documentation: ${assets[*]}"
[ "${#assets[@]}" -ge 3 ]
for asset in "${assets[@]}"; do
  [[ "$asset" == /* && "$asset" != //* ]]
  curl -fs -o /dev/null "http://127.0.0.1:$PORT$asset"
done

# Without the variable, onnxruntime sends telemetry.
inside /venv/bin/python -c 'import os; assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"'
say "telemetry: off"

# Run the health check that the image declares, on this test's port in place of the image's.
health=("${health[@]//8000/$PORT}")
inside "${health[@]}"
say "healthy"

pid=$(pgrep -P "$server" -n || echo "$server")
kill -TERM "$pid"
sleep 0.5
status=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/readyz")
answer=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/rerank" -d "$body")
say "draining: readyz $status, rerank $answer"
[ "$status" = 503 ] && [ "$answer" = 200 ]
code=0
wait "$server" || code=$?
server=""
say "ended with status $code"
[ "$code" = 0 ]
if inside "${health[@]}" 2>/dev/null; then
  say "the health check passes without a server"
  exit 1
fi
say "all checks passed"
