#!/bin/sh
# Makes the peers' environment from peers.txt: peers.sh [FOLDER], by default build/peers under the project's root.
# The project's own modules (the original, the metrics) are found from it as well.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${1:-$root/build/peers}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --disable-pip-version-check --requirement "$here/peers.txt"
"$folder/bin/pip" check --disable-pip-version-check
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$root" > "$packages/assay.pth"
