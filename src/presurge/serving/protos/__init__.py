"""Messages of the gRPC doors, generated from the .proto files beside them (scripts/protos.sh)."""
