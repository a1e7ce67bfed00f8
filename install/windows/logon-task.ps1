# Runs the daemon from the logon on, so that streams that extensions have opened go on before a browser starts.
# Not needed otherwise: hosts start the daemon by themselves. It still ends when nobody needs it.
#
#   websocket-bridge install
#   powershell -ExecutionPolicy Bypass -File logon-task.ps1
#
# To undo that: Unregister-ScheduledTask websocket-bridge
$ErrorActionPreference = 'Stop'

$program = Join-Path $env:LOCALAPPDATA 'semantest\websocket-bridge\data\bin\websocket-bridge.exe'
if (-not (Test-Path -LiteralPath $program)) { Write-Error "$program is not there: call websocket-bridge install first" }

$action = New-ScheduledTaskAction -Execute $program -Argument 'daemon'
# Only this user's own logon, for which nobody has to be an administrator.
$trigger = New-ScheduledTaskTrigger -AtLogOn -User "$env:USERDOMAIN\$env:USERNAME"
$settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -ExecutionTimeLimit 0
Register-ScheduledTask -TaskName 'websocket-bridge' -Action $action -Trigger $trigger -Settings $settings -Force | Out-Null
Write-Output "the daemon is started when $env:USERNAME logs on"
