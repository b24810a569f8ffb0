"""The inference service: forecasts over HTTP and gRPC, from whole histories or from the rows that it has seen."""
