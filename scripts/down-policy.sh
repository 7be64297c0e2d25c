#!/bin/sh
# Undoes what up-policy.sh, which stands beside it, did for $TUN.
set -eu
exec "${0%/*}/up-policy.sh" down
