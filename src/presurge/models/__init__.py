"""The forecasters: every model maps the past of a Panel to a Forecast."""
