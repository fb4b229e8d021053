"""A walking skeleton: the positions of a person's joints over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.walkers.people import Person

Floats = npt.NDArray[np.float64]

ANKLE = 0.07
"""Height of the ankle over the sole, metres."""
SOLE = 0.035
"""Half thickness of a shoe, metres."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Joints as (T, 3) arrays: metres forward, to the left and up, from the ground below the moving body.

    ``left`` and ``right`` hold a side's joints: shoulder, elbow, wrist, fingers, hip, knee, ankle, heel, toe.
    ``travel_T`` is the distance walked in metres.
    """

    pelvis: Floats
    shoulders: Floats
    chin: Floats
    crown: Floats
    left: dict[str, Floats]
    right: dict[str, Floats]
    travel_T: Floats


def walk(person: Person, time_T: Floats, phase: float) -> Skeleton:
    """Joints at ``time_T`` seconds of a walk that starts at ``phase`` (radians of the stride)."""
    stride_T = phase + 2 * np.pi * person.cadence * time_T
    legs = {side: _leg(person, stride_T + turn, sign) for side, turn, sign in (("l", 0.0, 1.0), ("r", np.pi, -1.0))}
    soles_T = np.minimum(*(np.minimum(leg["toe"][:, 2], leg["heel"][:, 2]) for leg in legs.values())) - SOLE
    rise_T3 = np.stack([0 * stride_T, person.sway * np.sin(stride_T), -soles_T], axis=1)  # lowest sole on the ground
    for leg in legs.values():
        for joint in leg:
            leg[joint] = leg[joint] + rise_T3
    lean_T = person.lean + 0.03 * np.cos(2 * stride_T)
    trunk = person.height - person.leg - person.neck - person.head
    shoulders = rise_T3 + _upwards(lean_T, trunk)
    chin = shoulders + _upwards(lean_T + person.stoop, person.neck)
    crown = chin + _upwards(0.25 * (lean_T + person.stoop), person.head)
    for side, turn, sign in (("l", np.pi, 1.0), ("r", 0.0, -1.0)):
        legs[side] |= _arm(person, stride_T + turn, sign, shoulders)
    speed = 4 * person.leg * np.sin(person.swing) * person.cadence
    return Skeleton(rise_T3, shoulders, chin, crown, legs["l"], legs["r"], speed * time_T)


def _leg(person: Person, stride_T: Floats, side: float) -> dict[str, Floats]:
    """A leg hanging from a hip at height 0; at stride 0 the thigh is upright and swings forward."""
    thigh_T = person.swing * (np.sin(stride_T) + 0.15)
    bend_T = 0.06 + person.knee * np.maximum(0.0, np.cos(stride_T + 0.4)) ** 1.5
    bend_T += 0.12 * np.maximum(0.0, np.sin(stride_T - 0.9)) ** 2  # the knee gives way under the weight
    shin_T = thigh_T - bend_T
    pitch_T = 0.28 * np.maximum(0.0, np.sin(stride_T)) ** 2 - 0.75 * np.maximum(0.0, np.cos(stride_T + 1.0)) ** 2
    length = 0.5 * (person.leg - ANKLE)
    hip = np.stack([0 * stride_T, 0 * stride_T + side * 0.62 * person.hip, 0 * stride_T], axis=1)
    inward = side * (person.stance - 0.62 * person.hip) / 2
    knee = hip + _downwards(thigh_T, length) + [0.0, inward, 0.0]
    ankle = knee + _downwards(shin_T, length) + [0.0, inward, 0.0]
    heel = ankle + _along(pitch_T, -0.22 * person.foot, SOLE - ANKLE)
    toe = ankle + _along(pitch_T, 0.66 * person.foot, SOLE - ANKLE) + [0.0, side * 0.03, 0.0]
    return {"hip": hip, "knee": knee, "ankle": ankle, "heel": heel, "toe": toe}


def _arm(person: Person, stride_T: Floats, side: float, shoulders: Floats) -> dict[str, Floats]:
    """An arm that swings with the opposite leg."""
    swing_T = person.arm_swing * np.sin(stride_T) + 0.4 * person.lean
    bend_T = person.elbow + 0.35 * person.arm_swing * (1.0 + np.sin(stride_T))
    outward = side * person.arm * np.sin(person.spread)
    upper, fore = 0.53 * person.arm, 0.47 * person.arm
    shoulder = shoulders + np.array([0.0, side * (person.shoulder - 0.02), -0.035 * person.limb])
    elbow = shoulder + _downwards(swing_T, upper) + [0.0, 0.6 * outward, 0.0]
    wrist = elbow + _downwards(swing_T + bend_T, fore) + [0.0, 0.25 * outward, 0.0]
    fingers = wrist + _downwards(swing_T + 1.2 * bend_T, 0.10)
    return {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "fingers": fingers}


def _upwards(angle_T: Floats, length: float) -> Floats:
    return np.stack([length * np.sin(angle_T), 0 * angle_T, length * np.cos(angle_T)], axis=1)


def _downwards(angle_T: Floats, length: float) -> Floats:
    return np.stack([length * np.sin(angle_T), 0 * angle_T, -length * np.cos(angle_T)], axis=1)


def _along(pitch_T: Floats, forward: float, up: float) -> Floats:
    """A point of the foot, rotated by ``pitch_T`` about the ankle; positive means toes up."""
    sine, cosine = np.sin(pitch_T), np.cos(pitch_T)
    return np.stack([forward * cosine - up * sine, 0 * pitch_T, forward * sine + up * cosine], axis=1)
