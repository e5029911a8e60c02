#!/bin/sh
# The main job on a local folder store: plan, apply, invoke, show the execution.
set -e
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

type_in() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

type_in kitaru plan
type_in kitaru apply --yes
type_in kitaru invoke research_agent --input '{"topic": "serverless routing"}' --wait
type_in kitaru invoke word_count --wait
type_in kitaru executions list --limit 5
type_in kitaru executions get "$(kitaru executions list --flow research_agent --limit 1 -o json | sed -n 's/.*"exec_id": "\(ex-[^"]*\)".*/\1/p' | head -n 1)"
