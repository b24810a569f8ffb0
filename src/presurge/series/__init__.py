"""Regular series: panels, forecasts, windows, spans, scalers, buckets and time stamps."""
