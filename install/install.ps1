# Installs websocket-bridge for this user: takes the program, or builds it; has it install itself for every browser that is
# found; and looks whether everything works.
#
#   powershell -ExecutionPolicy Bypass -File install\install.ps1 [OPTION...]
#
# Options are those of `websocket-bridge install`, for example
#   --extension abcdefghijklmnopabcdefghijklmnop --url wss://example.org/ws
#
# The program is, in this order: what WEBSOCKET_BRIDGE_BIN names; what lies beside this script (as in an archive of a
# release); what Cargo builds from the source that this script is a part of. Ends with the exit code of the doctor.
$ErrorActionPreference = 'Stop'

$name = 'websocket-bridge.exe'
$root = Split-Path -Parent $PSScriptRoot
$beside = Join-Path $PSScriptRoot $name

if ($env:WEBSOCKET_BRIDGE_BIN) {
    $program = $env:WEBSOCKET_BRIDGE_BIN
} elseif (Test-Path -LiteralPath $beside) {
    $program = $beside
} elseif (Test-Path -LiteralPath (Join-Path $root 'Cargo.toml')) {
    if (-not (Get-Command cargo -ErrorAction SilentlyContinue)) {
        Write-Error 'there is no program beside this script, and no Rust to build it: see https://rustup.rs'
    }
    Push-Location -LiteralPath $root
    try { & cargo build --release --locked } finally { Pop-Location }
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
    $target = if ($env:CARGO_TARGET_DIR) { $env:CARGO_TARGET_DIR } else { Join-Path $root 'target' }
    $program = Join-Path (Join-Path $target 'release') $name
} else {
    Write-Error "there is neither $name nor its source beside this script"
}

& $program install @args
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
Write-Output ''
& $program doctor
exit $LASTEXITCODE
