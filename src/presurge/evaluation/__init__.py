"""Scoring models: metrics, intervals, rolling-origin backtests, verdicts and the report."""
