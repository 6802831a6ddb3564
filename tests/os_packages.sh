#!/bin/sh
# The Debian packages that tests use beside Python's: installed if that can be done without asking anybody.
# Tests whose package is missing are skipped and say so; `make test` goes on.
set -u
WANTED="chromium chromium-driver postgresql"

command -v dpkg-query > /dev/null || { echo "tests: no Debian here; some tests need Chromium, its driver and PostgreSQL"; exit 0; }
missing=""
for package in $WANTED; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  echo "tests: installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086  # a list of names
  { apt-get install -qq -y --no-install-recommends $missing \
    || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; }; } > /dev/null 2>&1 && exit 0
fi
echo "tests: missing$missing; the tests that need them are skipped (apt-get install$missing)"
