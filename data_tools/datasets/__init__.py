"""Readers that turn a released data set, footage with tracks or a folder of clips into tracklets."""
