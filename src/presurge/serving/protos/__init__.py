"""Messages of the gRPC doors, generated from the .proto files beside them (scripts/protos.sh)."""

__all__: list[str] = []
"""Nothing for the API reference: the .proto files say what there is."""
