#!/bin/sh
# Before the first `docker compose up`: make the secrets and docker/.env. What is there already stays as it is.
#
# The secrets are files that their owner alone can read. Containers run as the user who calls this script, so they can
# read them too; called by root, they run as the image's own user, who is made the owner.
set -eu
cd "$(dirname "$0")"
umask 077
secrets=${HEADWATER_SECRETS:-$PWD/secrets}
socket=${HEADWATER_DOCKER_SOCKET:-${DOCKER_HOST:-/var/run/docker.sock}}
socket=${socket#unix://}

uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then uid=10001 gid=10001; fi

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

write() { # write NAME CONTENT
    if [ ! -s "$secrets/$1" ]; then
        printf '%s\n' "$2" > "$secrets/.$1.new"
        if [ "$(id -u)" = 0 ]; then chown "$uid:$gid" "$secrets/.$1.new"; fi
        mv "$secrets/.$1.new" "$secrets/$1"
        echo "wrote $secrets/$1"
    fi
}

mkdir -p "$secrets"
write postgres_password "$(random)"
write api_auth "headwater:$(random)"

if [ ! -e .env ]; then
    cat > .env.new <<END
# Settings of docker/compose.yaml on this machine; docs/operations/one-server.md lists them all.
COMPOSE_PROFILES=processes,no-gpu
HEADWATER_SECRETS=$secrets
HEADWATER_UID=$uid
HEADWATER_GID=$gid
HEADWATER_DOCKER_SOCKET=$socket
HEADWATER_DOCKER_GID=$(stat -c %g "$socket" 2> /dev/null || echo 0)
END
    mv .env.new .env
    echo "wrote $PWD/.env"
fi
