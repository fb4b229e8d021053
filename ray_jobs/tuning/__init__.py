"""Hyper-parameter search with Ray Tune; each trial is a Ray Train run."""
