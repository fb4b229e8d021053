"""Losses: one idea a file, plain functions of what the heads give."""
