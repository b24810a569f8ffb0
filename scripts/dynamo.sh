#!/usr/bin/env bash
# Run the planner of NVIDIA Dynamo, from its wheel, with Presurge as its predictor, and say whose forecasts it used.
#   scripts/dynamo.sh           needs neither a GPU nor Kubernetes; the first run makes .venv/dynamo (840 MB from PyPI)
# PRESURGE_DYNAMO names another place for that environment, PRESURGE the command that runs Presurge.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
HOME_OF="${PRESURGE_DYNAMO:-.venv/dynamo}"
NEEDS=(grpcio protobuf pydantic==2.14.3 pyyaml packaging msgspec==0.22.0 numpy pandas scikit-learn==1.9.1 pmdarima==2.1.1
    filterpy==2.0.0 prophet==1.5.0 kubernetes==32.0.1 prometheus-client==0.26.0 prometheus-api-client==0.7.2)

if [ ! -e "$HOME_OF/complete" ]; then
    python3 -m venv "$HOME_OF"
    # Without their dependencies: most serve engines that a planner alone does not run.
    "$HOME_OF/bin/pip" install -q --no-deps ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
    "$HOME_OF/bin/pip" install -q "${NEEDS[@]}"
    # On PyPI, aisimulate is a stub that fetches its wheel from elsewhere; the planner imports two names of it.
    SITE="$("$HOME_OF/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    mkdir -p "$SITE/aisimulate_core"
    touch "$SITE/aisimulate_core/__init__.py"
    printf 'class ForwardPassPerfModelConfig: ...\nclass RustForwardPassPerfModel: ...\n' > "$SITE/aisimulate_core/sdk.py"
    touch "$HOME_OF/complete"
fi
DYN_LOG=error exec "$HOME_OF/bin/python" tests/serving/dynamo_planner.py ${PRESURGE:-.venv/bin/presurge}
