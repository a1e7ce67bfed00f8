#!/usr/bin/env bash
# Installs websocket-bridge for this user: takes the program, or builds it; has it install itself for every browser that is
# found; and looks whether everything works.
#
#   install/install.sh [OPTION...]      options as for `websocket-bridge install`, for example
#                                       --extension abcdefghijklmnopabcdefghijklmnop --url wss://example.org/ws
#
# The program is, in this order: what WEBSOCKET_BRIDGE_BIN names; what lies beside this script (as in an archive of a
# release); what Cargo builds from the source that this script is a part of. Ends with the exit code of the doctor.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=websocket-bridge

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

if [[ -n ${WEBSOCKET_BRIDGE_BIN:-} ]]; then
    program=$WEBSOCKET_BRIDGE_BIN
elif [[ -x $here/$name ]]; then
    program=$here/$name
elif [[ -f $here/../Cargo.toml ]]; then
    command -v cargo >/dev/null || fail "there is no program beside this script, and no Rust to build it: see https://rustup.rs"
    command -v cc >/dev/null || fail "a C compiler (cc) is missing, which building needs: install one"
    (cd "$here/.." && cargo build --release --locked)
    program=${CARGO_TARGET_DIR:-$here/../target}/release/$name
else
    fail "there is neither $name nor its source beside this script"
fi
[[ -x $program ]] || fail "$program is no program"

"$program" install "$@"
printf '\n'
exec "$program" doctor
