#!/bin/sh
# Docker Compose on our compose file, by whichever Compose is here: docker/compose.sh ps, docker/compose.sh logs server, ...
# Exit code 3: there is no engine that answers, or no Compose of version 2 or later.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

docker info > /dev/null 2>&1 || exit 3
if docker compose version > /dev/null 2>&1; then
    exec docker compose --file "$here/compose.yaml" "$@"
fi
for compose in docker-compose "$here/../.venv/bin/docker-compose"; do
    case $("$compose" version --short 2> /dev/null || echo 1) in
        1*) ;;
        *) exec "$compose" --file "$here/compose.yaml" "$@" ;;
    esac
done
exit 3
