#!/bin/sh
# pip install into the image's environment: from the wheelhouse alone when there are wheels in it,
# from the package registry otherwise. The versions are the lock file's either way.
set -eu
if find /wheelhouse -name '*.whl' | grep -q .; then
  set -- --no-index --find-links /wheelhouse "$@"
fi
exec /opt/landbridge/bin/pip install --quiet --constraint requirements.lock "$@"
