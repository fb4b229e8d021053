"""Hyper-parameter search with Ray Tune: each trial a Ray Train run."""
