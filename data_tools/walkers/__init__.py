"""Synthetic clothes-changing walkers, rendered as video files with tracks and labels.

WalkerOptions → plan_walkers → WalkerVideo jobs → render_video       → videos/NAME.mp4
                                                → write_annotations  → tracks/NAME.txt, labels.csv
"""

from __future__ import annotations

from data_tools.walkers.options import WalkerOptions
from data_tools.walkers.plan import WalkerVideo, plan_walkers
from data_tools.walkers.render import claim_folder, render_video, render_walkers, video_path, write_annotations

__all__ = [
    "WalkerOptions",
    "WalkerVideo",
    "claim_folder",
    "plan_walkers",
    "render_video",
    "render_walkers",
    "video_path",
    "write_annotations",
]
