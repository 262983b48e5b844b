#!/bin/sh
# make down: end the services, and with them the containers of stages, which their worker has started and Compose does not
# know. Those are asked to end while the server still hears it: their runs crash in order and resume later. Volumes stay.
set -eu
cd "$(dirname "$0")/.."

if ! docker/compose.sh version > /dev/null 2>&1; then
    echo "No container engine answers: nothing to end."
    exit 0
fi
docker/compose.sh --profile '*' stop worker-containers > /dev/null 2>&1
project=$(docker/compose.sh config | sed -n 's/^name: //p')
stages=$(docker ps --all --quiet --filter "network=${project}_default" --filter label=io.prefect.work-pool-name)
if [ -n "$stages" ]; then
    # shellcheck disable=SC2086 # one word a container
    docker stop --time 30 $stages > /dev/null
    # shellcheck disable=SC2086
    docker rm --volumes $stages > /dev/null
fi
docker/compose.sh --profile '*' down --remove-orphans
