#!/bin/sh
# Start Valkey with the password of VALKEY_PASSWORD, which no command line shows, and at most
# VALKEY_MAXMEMORY of data. Arguments are options of the server.
set -eu
case "${VALKEY_PASSWORD:-}" in
  '' | *[!A-Za-z0-9]*)
    echo 'VALKEY_PASSWORD: must be letters and digits, as `openssl rand -hex 24` prints them' >&2
    exit 2
    ;;
esac
exec valkey-server - "$@" <<EOF
$(cat "$(dirname "$0")/valkey.conf")
requirepass $VALKEY_PASSWORD
maxmemory ${VALKEY_MAXMEMORY:-1gb}
EOF
