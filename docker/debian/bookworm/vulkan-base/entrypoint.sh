#!/usr/bin/env bash
# First process of the container: tells of folders that cannot be written, then becomes the command.
#
# usage: entrypoint.sh COMMAND [ARGUMENT...]
set -euo pipefail
closed=()
for folder in /head2head/{datasets,checkpoints,results,preprocessing/files} /cache; do
  [ -w "$folder" ] || closed+=("$folder")
done
if [ ${#closed[@]} != 0 ]; then
  owner="$(stat -c %u:%g "${closed[0]}" 2>/dev/null || echo nobody)"
  echo "warning: user $(id -u):$(id -g) cannot write to ${closed[*]}, of $owner; start the container with run.sh, or as that user" >&2
fi
exec "$@"
