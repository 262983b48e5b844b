#!/bin/sh
# Secrets come to a container as files; Prefect reads them from its environment. They are put there here, for the one
# process that this becomes: neither the image, nor the container's configuration, nor a command line holds them.
set -eu

if [ -n "${HEADWATER_API_AUTH_FILE:-}" ]; then
    PREFECT_API_AUTH_STRING=$(cat "$HEADWATER_API_AUTH_FILE")
    export PREFECT_API_AUTH_STRING
fi

if [ -n "${HEADWATER_DATABASE_PASSWORD_FILE:-}" ]; then # the server, and only the server, is given this
    PREFECT_SERVER_DATABASE_PASSWORD=$(cat "$HEADWATER_DATABASE_PASSWORD_FILE")
    export PREFECT_SERVER_DATABASE_PASSWORD
    if [ -n "${PREFECT_API_AUTH_STRING:-}" ]; then
        export PREFECT_SERVER_API_AUTH_STRING="$PREFECT_API_AUTH_STRING"
    fi
fi

exec "$@"
