"""Choosing a strength."""
