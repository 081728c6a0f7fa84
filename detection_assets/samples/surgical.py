"""A theatre's instrument tray: steel on a green or blue drape, under a lamp, with gloves that take and bring.

A theatre has its own drape, tray, lamp and steel; a camera its own place; a clip its own layout and visitors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detection_assets.samples import instruments as draw
from detection_assets.samples.canvas import Canvas, Sprite, clouds
from detection_assets.samples.clip import Plan, Role
from detection_assets.samples.film import Light, Sensor
from detection_assets.samples.geometry import CameraPath, Matrix, Vector, Wander, lying
from detection_assets.samples.hands import Visit, arm
from detection_assets.samples.packaging import RGB
from detection_assets.samples.stage import Backdrop, Image, Stage, Thing, rectangle

CLASSES = ("scalpel", "forceps", "scissors", "tumour")
SIZE = (640, 480)
HALF_WIDTH, HALF_DEPTH = 36.0, 27.0
"""Half the tray's inner size, cm."""
PPC = 11.0

DRAPES: list[RGB] = [(0.10, 0.36, 0.33), (0.13, 0.30, 0.52), (0.24, 0.46, 0.50), (0.08, 0.28, 0.22), (0.30, 0.42, 0.60)]
GLOVES: list[RGB] = [(0.90, 0.86, 0.74), (0.42, 0.60, 0.86), (0.93, 0.93, 0.92), (0.40, 0.36, 0.62)]
GOWNS: list[RGB] = [(0.14, 0.40, 0.38), (0.22, 0.38, 0.62), (0.62, 0.72, 0.76)]


@dataclass(frozen=True)
class Item:
    """Something on the tray.

    Attributes:
        sprite: What it looks like.
        shine: The same with the lamp glancing off it, for steel.
        spot: Where it lies.
        angle: How it is turned, radians.
        phase: When in the camera's motion it glints.
        number: Its number on the stage; 0 for what is none of the classes.
        visit: The glove that brings it or takes it away.
    """

    sprite: Sprite
    shine: Sprite | None
    spot: Vector
    angle: float
    phase: float
    number: int
    visit: Visit | None = None


class Theatre:
    """What a theatre has of its own."""

    def __init__(self, plan: Plan) -> None:
        rng = plan.random_of_place()
        base = DRAPES[rng.integers(len(DRAPES))]
        self.drape: RGB = tuple(float(np.clip(c * rng.uniform(0.85, 1.2), 0, 1)) for c in base)
        self.bare = bool(rng.random() < 0.25)
        self.steel: RGB = (1.0, 1.0 + rng.uniform(-0.03, 0.02), 1.0 + rng.uniform(-0.08, 0.10))
        self.glove = GLOVES[rng.integers(len(GLOVES))]
        self.gown = GOWNS[rng.integers(len(GOWNS))]
        lamp = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.2, 0.6), 0.8])
        x, y, z = lamp / np.linalg.norm(lamp)
        self.lamp = (float(x), float(y), float(z))
        warm = rng.uniform(-0.06, 0.09)
        self.tint = (1 + warm, 1.0, 1 - warm * 1.2)
        self.exposure = rng.uniform(0.90, 1.20)
        self.noise, self.soft = rng.uniform(1.5, 4.5), float(rng.choice([0.0, 0.5, 0.8]))
        self.weave, self.texture_seed = rng.uniform(0.02, 0.06), int(rng.integers(1 << 30))

    def room(self) -> list[Backdrop]:
        """The drape over the table, and on it the tray: covered by the drape, or bare steel."""
        rng = np.random.default_rng(self.texture_seed)
        cloth = self._cloth(150, 120, 6, rng)
        wide, deep = 2 * HALF_WIDTH + 6, 2 * HALF_DEPTH + 6
        ppc = 9
        inner = self._cloth(wide, deep, ppc, rng)
        if self.bare:
            brushed = rng.normal(0, 1, (inner.shape[0], 1)) * 0.02 + 0.74 + 0.10 * clouds(rng, inner.shape[:2], 3)
            inner = (np.asarray(self.steel) * brushed[..., None]).astype(np.float32)
        u = np.minimum(np.arange(inner.shape[1]), np.arange(inner.shape[1])[::-1]) / ppc
        v = np.minimum(np.arange(inner.shape[0]), np.arange(inner.shape[0])[::-1]) / ppc
        rim = np.minimum(u[None, :], v[:, None])
        inner *= (1 - 0.35 * np.exp(-(((rim - 3.0) / 0.8) ** 2)))[..., None]
        inner += (0.22 * np.exp(-(((rim - 1.2) / 0.5) ** 2)))[..., None]
        table = rectangle(_bytes(cloth), [-75, -6, 60], [150, 0, 0], [0, 0, -120])
        tray = rectangle(_bytes(inner), [-wide / 2, 0, deep / 2], [wide, 0, 0], [0, 0, -deep])
        return [table, tray]

    def _cloth(self, wide: float, deep: float, ppc: int, rng: np.random.Generator) -> np.ndarray:
        shape = (int(deep * ppc), int(wide * ppc))
        folds = clouds(rng, shape, 4) - 0.5
        slope = np.gradient(folds, axis=1) * ppc * 1.6 + np.gradient(folds, axis=0) * ppc
        thread = rng.normal(0, self.weave * 0.5, shape)
        tone = 1 + slope + 0.16 * folds + thread
        return (np.asarray(self.drape, np.float32) * tone[..., None]).astype(np.float32)


class SurgicalScene:
    """The tray during one clip."""

    def __init__(self, plan: Plan) -> None:
        self.theatre = Theatre(plan)
        self.path = _path(plan)
        rng = plan.random(1)
        self.sensor = Sensor(
            SIZE, _light(self.theatre, rng), self.theatre.noise, self.theatre.soft, plan.seconds, plan.random(2)
        )
        self.roles: dict[int, Role] = {}
        self._room = self.theatre.room()
        self._stains = self._spill(rng)
        self._items = self._lay_out(rng)
        self._visits = self._plan_visits(plan, rng)
        self._arm = arm(self.theatre.glove, self.theatre.gown, -1.5, 9, self.theatre.lamp, int(rng.integers(1 << 30)))

    def _spill(self, rng: np.random.Generator) -> list[tuple[Sprite, Vector]]:
        """Drops and smears of blood on the drape."""
        stains: list[tuple[Sprite, Vector]] = []
        for _ in range(int(rng.integers(0, 4))):
            canvas = Canvas(-4, 4, -4, 4, 5)
            rho = np.hypot(canvas.x * rng.uniform(0.8, 1.8), canvas.y) + 2.6 * (clouds(rng, canvas.x.shape, 5) - 0.5)
            canvas.paint((0.36, 0.04, 0.05), canvas.cover(rho - rng.uniform(0.4, 1.4)) * 0.8)
            spot = np.array([rng.uniform(-30, 30), 0.0, rng.uniform(-22, 22)])
            stains.append((canvas.sprite(), spot))
        return stains

    def _make(self, kind: str, rng: np.random.Generator) -> tuple[Sprite, Sprite | None]:
        steel, lamp = self.theatre.steel, self.theatre.lamp
        match kind:
            case "scalpel":
                return draw.scalpel(PPC, steel, rng)
            case "forceps":
                return draw.forceps(PPC, steel, rng)
            case "scissors":
                return draw.scissors(PPC, steel, rng)
            case "tumour":
                return draw.tumour(PPC, lamp, rng), None
            case "gauze":
                return draw.gauze(PPC, rng), None
            case "syringe":
                return draw.syringe(PPC, rng), None
            case _:
                return draw.bowl(PPC, lamp, rng), None

    def _lay_out(self, rng: np.random.Generator) -> list[Item]:
        """Lays things out as a nurse does: side by side in two rows, roughly parallel, a few across others."""
        lean = rng.uniform(-0.35, 0.35) + np.pi / 2
        items: list[Item] = []
        for row in (11.5, -11.5):
            x = -31 + rng.uniform(0, 4)
            while x < 32:
                kind = str(
                    rng.choice([*CLASSES, "gauze", "syringe", "bowl"], p=[0.2, 0.2, 0.2, 0.18, 0.08, 0.08, 0.06])
                )
                room = {"scalpel": 2.0, "forceps": 2.6, "scissors": 4.2, "syringe": 2.0}.get(kind, 4.2)
                x += room
                upside = np.pi * int(rng.random() < 0.35)
                angle = lean + rng.normal(0, 0.16) + upside + (rng.uniform(-0.8, 0.8) if rng.random() < 0.2 else 0)
                spot = np.array([x, 0.2, row + rng.normal(0, 1.6)])
                items.append(self._item(kind, spot, angle, rng))
                x += room + rng.uniform(0.2, 2.2)
        # Soft things lie flat on the drape, instruments upon them.
        return sorted(items, key=lambda item: item.shine is not None)

    def _item(self, kind: str, spot: Vector, angle: float, rng: np.random.Generator) -> Item:
        sprite, shine = self._make(kind, rng)
        number = 0
        if kind in CLASSES:
            number = len(self.roles) + 1
            self.roles[number] = Role(kind, f"{kind}-{number:02d}")
        return Item(sprite, shine, spot, float(angle), rng.uniform(0, 2 * np.pi), number)

    def _plan_visits(self, plan: Plan, rng: np.random.Generator) -> list[Visit]:
        """Lets gloves come in from the near side or from the left or right, and take or bring an instrument."""
        visits: list[Visit] = []
        near = [k for k, item in enumerate(self._items) if abs(item.spot[0]) < 24]
        time = rng.uniform(-0.4, 1.2)
        while time < plan.seconds - 1.0 and near:
            k = near.pop(int(rng.integers(len(near))))
            item = self._items[k]
            side = float(rng.choice([-1, 0, 1]))
            out = np.array([side * 66.0 - item.spot[0], 10.0, -62.0 if side == 0 else -30.0 - item.spot[2]])
            visit = Visit(
                spot=item.spot + np.array([0, 1.5, 0]),
                outside=item.spot + out,
                elbow=out / np.linalg.norm(out) * 30 + np.array([0, 6.0, 0]),
                start=time,
                way=rng.uniform(0.8, 1.2),
                rest=rng.uniform(0.2, 0.8),
                lift=4.0,
                carries=str(rng.choice(["in", "out", "nothing"], p=[0.38, 0.42, 0.2])),
            )
            visits.append(visit)
            self._items[k] = replace(item, visit=visit)
            time = visit.end + rng.uniform(0.2, 1.4)
        return visits

    def draw(self, time: float, exposure: float) -> Stage:
        """Draws the tray at a time in seconds, bottom to top."""
        camera = self.path.at(time)
        stage = Stage(camera, SIZE, 30)
        stage.room(self._room)
        for sprite, spot in self._stains:
            stage.put(Thing(sprite, lying(spot, 0.0)))
        for item in self._items:
            if item.visit is None or item.visit.stands(time):
                stage.put(self._thing(item, lying(item.spot, item.angle), camera.eye, None))
        for item in self._items:
            if item.visit is not None and item.visit.holding(time):
                now, before = (_carried(item, item.visit, t) for t in (time, time - exposure))
                if now is not None:
                    stage.put(self._thing(item, now, camera.eye, before))
        for visit in self._visits:
            hand, earlier = visit.hand(time), visit.hand(time - exposure)
            if hand is not None:
                before = None if earlier is None else visit.forearm(earlier, camera)
                stage.put(Thing(self._arm, visit.forearm(hand, camera), 0, before))
        return stage

    @staticmethod
    def _thing(item: Item, plane: Matrix, eye: Vector, before: Matrix | None) -> Thing:
        """A thing as it lies; steel glints when the camera stands where it mirrors the lamp."""
        if item.shine is None:
            return Thing(item.sprite, plane, item.number, before)
        swing = np.sin(item.phase + 0.45 * (eye[0] + eye[2]) + item.spot[0] * 0.2)
        return Thing(item.sprite, plane, item.number, before, (item.shine, float(max(0.0, swing)) ** 2))


def _carried(item: Item, visit: Visit, time: float) -> Matrix | None:
    hand = visit.hand(time)
    return None if hand is None else lying(hand + (item.spot - visit.spot), item.angle)


def _path(plan: Plan) -> CameraPath:
    """A camera on the lamp's boom or on a head: it looks down at a slant, drifts and sways."""
    place = np.random.default_rng([plan.seed, len(plan.sample), 3, plan.place, int(plan.camera[-1])])
    rng = plan.random(3)
    slant, height = place.uniform(0.15, 0.62), place.uniform(58, 76)
    target = np.array([place.uniform(-6, 6), 0.0, place.uniform(-3, 3)])
    eye = target + np.array([place.uniform(-14, 14), height * np.cos(slant), -height * np.sin(slant)])
    sway = rng.uniform(0.8, 2.6)
    amplitude = [sway, sway * 0.6, sway, sway * 1.2, 0.0, sway, 0.03]
    pan = np.array([rng.uniform(3, 10) * rng.choice([-1, 1]), 0.0, rng.uniform(-4, 4)])
    unrest = Wander(rng, amplitude, 0.10, 0.32)
    return CameraPath(eye, target, pan, unrest, place.uniform(580, 680), SIZE, plan.seconds, place.uniform(-0.25, 0.25))


def _light(theatre: Theatre, rng: np.random.Generator) -> Light:
    return Light(
        tint=theatre.tint,
        slope=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)),
        corner=rng.uniform(0.2, 0.55),
        exposure=theatre.exposure * rng.uniform(0.94, 1.06),
        drift=rng.uniform(0.02, 0.10),
        flicker=(rng.uniform(0.0, 0.03), rng.uniform(1.5, 5.0)),
        passer=float(rng.choice([0.0, rng.uniform(0.2, 0.5)])),
    )


def _bytes(picture: np.ndarray) -> Image:
    return np.ascontiguousarray(np.clip(picture * 255, 0, 255).astype(np.uint8))
