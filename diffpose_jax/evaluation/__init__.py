"""Metrics, protocols and batch evaluation."""
