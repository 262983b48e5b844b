#!/bin/sh
# make up: Headwater in containers where an engine and Compose answer, otherwise as processes of this machine.
set -eu
cd "$(dirname "$0")/.."

if ! docker/compose.sh version > /dev/null 2>&1; then
    echo "No container engine with Compose answers: Prefect and its workers start on this machine (headwater up)."
    exec "${MAKE:-make}" --no-print-directory up-here
fi
echo "A container engine answers: Headwater starts in containers (docker/compose.yaml)."
docker/first-use.sh

setting() { sed -n "s/^$1=//p" docker/.env | tail -n 1; }
version=$(setting HEADWATER_VERSION)

build() { # build TARGET; takes a second if nothing has changed
    set -- --target "$1" --tag "headwater:${version:-0.1.0}-$1"
    if [ -f docker/pip.conf ]; then set -- "$@" --secret id=pip,src=docker/pip.conf; fi
    DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile "$@" .
}
build cpu
case ",$(setting COMPOSE_PROFILES),$(setting HEADWATER_STAGE_TRAINING)," in *,gpu,* | *,cuda,*) build cuda ;; esac

docker/start.sh
echo
echo "Prefect UI   http://$(docker/compose.sh port server 4200)"
echo "Password     in docker/secrets/api_auth (user:password)"
echo "make down ends it; datasets and the database stay in their volumes."
