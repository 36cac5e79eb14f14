#!/bin/sh
# Makes what docker-compose.yml would pull, from Debian's and Python's packages, for a machine that
# reaches no image registry: a wheelhouse, a base image with Python 3.11, and Prometheus. Run as root;
# needs a running Docker engine, debootstrap and Python 3.11.
#   deploy/offline/images.sh
#   docker-compose -f docker-compose.yml -f deploy/offline/compose.yml up --build
set -eu
cd "$(dirname "$0")/../.."
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)

"${PYTHON:-python3.11}" -m pip download --quiet --dest deploy/wheelhouse \
  --constraint requirements.lock 'setuptools>=80' '.[controller,model,worker]'

image() { # NAME PACKAGES: Debian bookworm, minimal, with these
  root=$(mktemp -d)
  debootstrap --variant=minbase --include="$2" bookworm "$root" "$mirror"
  rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists"
  tar -C "$root" -c . | docker import - "$1"
  rm -rf "$root"
}
image landbridge-base:bookworm python3,python3-venv
image landbridge-prometheus:bookworm prometheus
