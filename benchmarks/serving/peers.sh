#!/bin/sh
# Makes an environment for each peer from its line of peers.txt: peers.sh [FOLDER], by default build/serving under the
# project's root. They do not agree on one set of packages.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${1:-$root/build/serving}
grep -v '^#' "$here/peers.txt" | while read -r name packages; do
  "${PYTHON:-python3}" -m venv "$folder/$name"
  # shellcheck disable=SC2086 # one word for each package
  "$folder/$name/bin/pip" install --disable-pip-version-check $packages
done
