#!/usr/bin/env bash
# Generate the messages of the gRPC doors from their .proto files, after a change of these.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
.venv/bin/python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src --grpc_python_out=src src/presurge/serving/protos/*.proto
.venv/bin/ruff format -q src/presurge/serving/protos
