"""CVAT's XML and COCO's video JSON in the form that their tools write, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable

CVAT_META = (
    "<version>1.1</version><meta><task><size>60</size><mode>interpolation</mode>"
    "<labels><label><name>person</name></label></labels><original_size><width>96</width><height>64</height>"
    "</original_size></task></meta>"
)


def cvat_track(track: int, frames: range, label: str = "person", box: str = "10,12,30.5,52") -> str:
    """A track of CVAT for video 1.1; in the last frame it is outside."""
    left, top, right, bottom = box.split(",")
    boxes = "".join(
        f'<box frame="{frame}" keyframe="{int(frame % 10 == 0)}" outside="{int(frame == frames[-1])}" occluded="0" '
        f'xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="0">'
        '<attribute name="track_id">9</attribute></box>\n'
        for frame in frames
    )
    return f'<track id="{track}" label="{label}" source="manual">\n{boxes}</track>\n'


def cvat(*parts: str) -> str:
    """A document of tracks or images."""
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{CVAT_META}\n{"".join(parts)}</annotations>\n'


def cvat_image(frame: int, *tracks: int | None) -> str:
    """An image of CVAT for images 1.1 with one box per track."""
    boxes = "".join(
        '<box label="person" occluded="0" xtl="10" ytl="12" xbr="30.5" ybr="52">'
        + ("" if track is None else f'<attribute name="track_id">{track}</attribute>')
        + "</box>"
        for track in tracks
    )
    return f'<image id="{frame}" name="frame_{frame:06d}" width="96" height="64">{boxes}</image>\n'


def coco(videos: Iterable[str] = ("gate",), frame_key: str = "frame_id", track_key: str = "instance_id") -> str:
    """A CocoVID-like document: in each video person 3 in each of 60 frames, and a car."""
    document: dict[str, list[dict[str, object]]] = {
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "videos": [],
        "images": [],
        "annotations": [],
    }
    for video, name in enumerate(videos, 1):
        document["videos"].append({"id": video, "name": name})
        for frame in range(60):
            image = 1000 * video + frame
            document["images"].append(
                {
                    "id": image,
                    "video_id": video,
                    frame_key: frame,
                    "file_name": f"{name}/{frame + 1:06d}.jpg",
                    "width": 96,
                    "height": 64,
                }
            )
            for track, category in ((3, 1), (4, 3)):
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": image,
                        "video_id": video,
                        track_key: track,
                        "category_id": category,
                        "bbox": [10, 12, 20.5, 40],
                        "score": 0.9,
                    }
                )
    return json.dumps(document)


def youtube_vis() -> str:
    """A document of tubes: a box, or none, for every frame."""
    boxes = [None if frame < 10 else [10, 12, 20.5, 40] for frame in range(60)]
    return json.dumps(
        {
            "videos": [
                {
                    "id": 1,
                    "length": 60,
                    "width": 96,
                    "height": 64,
                    "file_names": [f"gate/{n:05d}.jpg" for n in range(60)],
                }
            ],
            "categories": [{"id": 26, "name": "person"}],
            "annotations": [{"id": 3, "video_id": 1, "category_id": 26, "bboxes": boxes}],
        }
    )
