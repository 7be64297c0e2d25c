#!/bin/sh
# Undoes what up-split.sh, which stands beside it, did for $TUN.
set -eu
exec "${0%/*}/up-split.sh" down
