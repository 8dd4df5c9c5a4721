@echo off
rem Opens Rarebit in the browser; with arguments it runs a command: start.bat train --help
cd /d "%~dp0"
set PYTHONUTF8=1
where py >nul 2>nul
if errorlevel 1 (python launch.py %*) else (py -3 launch.py %*)
if errorlevel 1 pause
