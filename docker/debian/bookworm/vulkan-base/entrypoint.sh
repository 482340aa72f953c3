#!/usr/bin/env bash
# First process of the container: tells of folders that cannot be written, then becomes the command.
#
# usage: entrypoint.sh COMMAND [ARGUMENT...]
set -euo pipefail
for folder in /head2head/{datasets,checkpoints,results,preprocessing/files} /cache; do
  [ -w "$folder" ] || echo "warning: user $(id -u):$(id -g) cannot write to $folder, which belongs to $(stat -c %u:%g "$folder" 2>/dev/null || echo nobody);" \
    "start the container with run.sh, or with --user and the owner of the mounted folder" >&2
done
exec "$@"
