#!/bin/sh
# Start the services of the profiles in docker/.env, and end those of other profiles: Compose leaves them running, and
# two kinds of worker would take each other's runs.
set -eu
cd "$(dirname "$0")/.."

active=$(docker/compose.sh config --services)
every=$(docker/compose.sh --profile '*' config --services)
others=$(echo "$every" | grep -vxF "$active" || true)
if [ -n "$others" ]; then
    # shellcheck disable=SC2086 # one word a service
    docker/compose.sh --profile '*' rm --stop --force $others > /dev/null
fi
docker/compose.sh up --no-build --detach --remove-orphans
