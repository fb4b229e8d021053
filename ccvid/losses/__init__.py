"""Losses: one idea per file, as plain functions of the heads' outputs."""
