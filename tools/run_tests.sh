#!/usr/bin/env bash
# Sets the environment up if need be, then runs the tests, which include lint, types and the documents' site:
#     bash tools/run_tests.sh [pytest options]
set -euo pipefail
WITH_TESTS=1 source "$(dirname "$0")/setup_env.sh"

# Test processes side by side, one thread each: more threads than cores starve one another.
processes="$(env -u OMP_NUM_THREADS nproc)"  # nproc takes that variable for a limit
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -n "$processes" --dist worksteal "$@"
