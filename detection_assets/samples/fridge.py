"""A shop's fridge: two shelves of products, seen by a camera that a hand or a wobbly mount holds.

A store has its own furniture, brands, light and habits of stacking; a camera its own place; a clip its own products,
visitors and camera motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection_assets.samples.canvas import Sprite, clouds
from detection_assets.samples.clip import Plan, Role
from detection_assets.samples.film import Light, Sensor
from detection_assets.samples.fruit import APPLES, apple, banana, lemon, orange, tomato
from detection_assets.samples.geometry import Camera, CameraPath, Matrix, Vector, Wander, facing
from detection_assets.samples.hands import SKINS, Visit, arm
from detection_assets.samples.packaging import RGB, Look, Print, bottle, can, carton, cup
from detection_assets.samples.stage import Backdrop, Image, Stage, Thing, rectangle

CLASSES = ("apple", "banana", "cola", "water")
SIZE = (640, 480)

HALF, DEPTH, UPPER, TOP = 52.0, 40.0, 33.0, 67.0
"""Half the fridge's width, its depth, and the heights of its upper shelf and its ceiling, cm."""
BOARD = 1.8
"""Thickness of a shelf, cm."""

WHITE, RED, BLACK, SILVER = (0.95, 0.95, 0.94), (0.78, 0.05, 0.08), (0.06, 0.06, 0.07), (0.75, 0.76, 0.78)
NAVY, SKY, CYAN, GREEN = (0.08, 0.15, 0.42), (0.30, 0.58, 0.86), (0.55, 0.83, 0.90), (0.12, 0.48, 0.28)
PINK, GOLD, MAROON, ORANGE = (0.86, 0.40, 0.55), (0.86, 0.68, 0.22), (0.45, 0.03, 0.07), (0.93, 0.52, 0.08)

COLAS = [
    Print(RED, WHITE, "Kola", "wave", WHITE),
    Print(BLACK, WHITE, "Kola Zero", "wave", RED),
    Print(SILVER, RED, "Kola light", "wave", RED),
    Print(MAROON, GOLD, "Coltra", "band", GOLD),
    Print(RED, WHITE, "ROYO", "band", BLACK),
    Print(NAVY, WHITE, "Pico Cola", "wave", RED),
]
WATERS = [
    Print(SKY, WHITE, "AQUA", "peaks", WHITE),
    Print(WHITE, NAVY, "Fjord", "peaks", SKY),
    Print(CYAN, NAVY, "still", "drops", WHITE),
    Print(GREEN, WHITE, "Quelle", "band", WHITE),
    Print(RED, WHITE, "medium", "band", WHITE),
    Print(NAVY, WHITE, "Purra", "drops", CYAN),
]
ENERGY = [
    Print(NAVY, SILVER, "VOLT", "peaks", SILVER),
    Print(BLACK, (0.55, 0.85, 0.15), "BEAST", "plain", GREEN),
    Print((0.55, 0.75, 0.20), WHITE, "LIMO", "drops", WHITE),
]
JUICES = [
    Print(ORANGE, WHITE, "Sol", "fruit", (0.88, 0.35, 0.05)),
    Print(GREEN, WHITE, "Apfel", "fruit", (0.75, 0.8, 0.2)),
]
YOGHURTS = [Print(WHITE, PINK, "yogo", "fruit", RED), Print(WHITE, NAVY, "skyr", "band", SKY)]
CAPS_COLA, CAPS_WATER = [RED, BLACK, WHITE, SILVER], [WHITE, NAVY, SKY, GREEN, RED]
MILK, FANTA = Print(SKY, WHITE, "Milch", "band", WHITE), Print(ORANGE, WHITE, "Naranja", "fruit", GREEN)


@dataclass(frozen=True)
class Item:
    """A product on a shelf.

    Attributes:
        sprite: What it looks like.
        spot: Where its foot stands.
        number: Its number on the stage; 0 for what is none of the classes.
        upper: Whether it stands on the upper shelf.
        visit: The hand that brings it or takes it away.
    """

    sprite: Sprite
    spot: Vector
    number: int
    upper: bool
    visit: Visit | None = None


class Shop:
    """What a store has of its own: furniture, brands, light."""

    def __init__(self, plan: Plan) -> None:
        rng = plan.random_of_place()
        wall = [(0.90, 0.91, 0.92), (0.72, 0.74, 0.76), (0.30, 0.32, 0.35), (0.86, 0.88, 0.84), (0.55, 0.60, 0.66)]
        self.wall = wall[rng.integers(len(wall))]
        self.ribs = float(rng.choice([0, 3.5, 6.0, 11.0]))
        self.board: RGB = [(0.82, 0.84, 0.85), (0.66, 0.72, 0.72), (0.90, 0.90, 0.88), (0.45, 0.46, 0.48)][
            rng.integers(4)
        ]
        self.wire = bool(rng.random() < 0.4)
        self.rail: RGB = [WHITE, (0.85, 0.12, 0.12), (0.15, 0.16, 0.18), GOLD, SKY, SILVER][rng.integers(6)]
        self.colas = list(rng.choice(len(COLAS), 3, replace=False))
        self.waters = list(rng.choice(len(WATERS), 3, replace=False))
        self.apples = list(rng.choice(len(APPLES), 3, replace=False))
        warm = rng.uniform(-0.10, 0.10)
        self.tint = (1 + warm, 1.0, 1 - warm * 1.2)
        self.exposure = rng.uniform(0.96, 1.24)
        self.lamp = np.array([rng.uniform(-0.6, 0.6), rng.uniform(0.35, 0.8), 0.75])
        self.lamp /= np.linalg.norm(self.lamp)
        self.noise = rng.uniform(2.0, 5.5)
        self.soft = float(rng.choice([0.0, 0.5, 0.8]))
        self.gap = rng.uniform(0.5, 1.8)
        self.empty = rng.uniform(0.10, 0.28)

    def furniture(self) -> dict[str, Backdrop]:
        """The walls and boards, with their own shading."""
        rng = np.random.default_rng(int(self.noise * 1e6))
        wide, tall = 2 * HALF, TOP + 12
        back = _surface(self.wall, wide, tall, 6, rng)
        if self.ribs:
            line = np.abs(np.mod(np.arange(back.shape[1]) / 6, self.ribs) - self.ribs / 2) < 0.18
            back[:, line] *= 0.86
        back *= np.linspace(1.02, 0.70, back.shape[0], dtype=np.float32)[:, None, None]
        for y in (UPPER, 0.0):
            below = (TOP - y) * 6
            rows = np.arange(back.shape[0])
            back *= (1 - 0.30 * np.exp(-np.clip((rows - below) / 26, 0, None)) * (rows >= below))[:, None, None]
        side = _surface(tuple(0.86 * c for c in self.wall), DEPTH, tall, 6, rng)
        board = _surface(self.board, wide, DEPTH, 6, rng)
        if self.wire:
            board[:, :: 6 * 2] *= 0.62
            board[:, 1 :: 6 * 2] *= 0.72
        board *= np.linspace(0.66, 1.06, board.shape[0], dtype=np.float32)[:, None, None]
        under = _surface(tuple(0.5 * c for c in self.board), wide, DEPTH, 3, rng)
        rail = self._rail(wide, rng)
        down, right, near = [0.0, -tall, 0.0], [wide, 0.0, 0.0], [0.0, 0.0, -DEPTH]
        lip = [0.0, -4.2, 0.0]
        return {
            "back": rectangle(_bytes(back), [-HALF, TOP, DEPTH], right, down),
            "left": rectangle(_bytes(side), [-HALF, TOP, 0], [0, 0, DEPTH], down),
            "right": rectangle(_bytes(side[:, ::-1]), [HALF, TOP, DEPTH], near, down),
            "floor": rectangle(_bytes(board), [-HALF, 0, DEPTH], right, near),
            "upper": rectangle(_bytes(board), [-HALF, UPPER, DEPTH], right, near),
            "under": rectangle(_bytes(under), [-HALF, UPPER - BOARD, DEPTH], right, near),
            "ceiling": rectangle(_bytes(under), [-HALF, TOP, DEPTH], right, near),
            "rail_low": rectangle(rail, [-HALF, 0.7, -0.1], right, lip),
            "rail_high": rectangle(np.roll(rail, 331, axis=1), [-HALF, UPPER + 0.7, -0.1], right, lip),
            "rail_top": rectangle(rail, [-HALF, TOP + 2, -0.1], right, lip),
        }

    def _rail(self, wide: float, rng: np.random.Generator) -> Image:
        """The strip along a shelf's front, with price tags."""
        import cv2

        ppc = 9
        strip = _bytes(_surface(self.rail, wide, 4.2, ppc, rng))
        strip[:5] = np.clip(strip[:5].astype(np.int32) + 30, 0, 255)
        x = int(rng.uniform(1, 6) * ppc)
        while x < strip.shape[1] - 8 * ppc:
            paper = (250, 250, 244) if rng.random() < 0.75 else (250, 222, 60)
            cv2.rectangle(strip, (x, 7), (x + int(5.2 * ppc), 34), paper, -1)
            price = f"{rng.integers(0, 5)}.{rng.integers(10, 99)}"
            cv2.putText(strip, price, (x + 4, 28), cv2.FONT_HERSHEY_DUPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
            x += int(rng.uniform(7, 15) * ppc)
        return strip


class FridgeScene:
    """The fridge during one clip."""

    def __init__(self, plan: Plan) -> None:
        self.shop = Shop(plan)
        self.path = _path(plan)
        rng = plan.random(1)
        self.sensor = Sensor(
            SIZE, _light(self.shop, rng), self.shop.noise, self.shop.soft, plan.seconds, plan.random(2)
        )
        self.roles: dict[int, Role] = {}
        self._rooms = self.shop.furniture()
        self._looks = {upper: self._look(upper) for upper in (False, True)}
        self._stock: dict[tuple[str, bool, int], Sprite] = {}
        self._items = self._fill(rng)
        self._visits = self._plan_visits(plan, rng)
        skin = SKINS[rng.integers(len(SKINS))]
        sleeve = [(0.16, 0.20, 0.34), (0.55, 0.12, 0.14), (0.75, 0.74, 0.70), (0.20, 0.30, 0.22)][rng.integers(4)]
        self._arm = arm(skin, sleeve, rng.uniform(2, 14), 9, self._looks[False].light, int(rng.integers(1 << 30)))

    def _look(self, upper: bool) -> Look:
        foot = np.array([self.path.target[0], UPPER if upper else 0.0, DEPTH * 0.35])
        away = self.path.eye - (foot + np.array([0, 6, 0]))
        elevation = float(np.arctan2(away[1], np.hypot(away[0], away[2])))
        return Look(elevation, tuple(self.shop.lamp), 9.5)

    def _draw_product(self, kind: str, upper: bool, rng: np.random.Generator) -> Sprite:
        """A product of a kind; the same few shapes come again, as they do in a shop."""
        variant = int(rng.integers(4))
        known = self._stock.get((kind, upper, variant))
        if known is not None:
            return known
        look, shop = self._looks[upper], self.shop
        turn = rng.normal(1.57, 0.5)
        match kind:
            case "apple":
                sprite = apple(int(rng.choice(shop.apples)), look, rng)
            case "banana":
                sprite = banana(look, rng)
            case "cola":
                design = COLAS[int(rng.choice(shop.colas))]
                if rng.random() < 0.5:
                    sprite = can(design, look, turn)
                else:
                    sprite = bottle(design, CAPS_COLA[rng.integers(4)], (0.13, 0.05, 0.03), 0, look, turn, rng)
            case "water":
                design = WATERS[int(rng.choice(shop.waters))]
                pale = (0.80 + rng.uniform(-0.08, 0.05), 0.89, 0.95)
                sprite = bottle(design, CAPS_WATER[rng.integers(5)], pale, 1, look, turn, rng)
            case "energy":
                sprite = can(ENERGY[rng.integers(3)], look, turn, slim=True)
            case "milk":
                sprite = bottle(MILK, SKY, (0.94, 0.94, 0.91), 0, look, turn, rng)
            case "lemonade":
                sprite = bottle(FANTA, ORANGE, (0.90, 0.45, 0.06), 0, look, turn, rng)
            case "carton":
                sprite = carton(JUICES[rng.integers(2)], look, rng.uniform(0.25, 0.7) * rng.choice([-1, 1]))
            case "cup":
                sprite = cup(YOGHURTS[rng.integers(2)], look, turn)
            case "tomato":
                sprite = tomato(look, rng)
            case "lemon":
                sprite = lemon(look, rng)
            case _:
                sprite = orange(look, rng)
        self._stock[kind, upper, variant] = sprite
        return sprite

    def _fill(self, rng: np.random.Generator) -> list[Item]:
        """Stocks both shelves in runs of one kind, a second row behind the first, with gaps."""
        others = ["energy", "milk", "lemonade", "carton", "cup", "tomato", "lemon", "orange"]
        half_width = {"banana": 9.5, "apple": 4.4, "carton": 5.0, "lemon": 4.6}
        placed: list[tuple[Item, str]] = []
        for upper in (False, True):
            x = self.path.target[0] - 46 + rng.uniform(0, 4)
            last = ""
            while x < self.path.target[0] + 44:
                kind = last
                while kind == last:
                    kind = str(rng.choice([*CLASSES, "other"], p=[0.22, 0.17, 0.20, 0.21, 0.20]))
                last = kind
                kind = others[rng.integers(len(others))] if kind == "other" else kind
                reach = half_width.get(kind, 3.8)
                for _ in range(int(rng.integers(1, 3 if kind == "banana" else 4))):
                    x += reach
                    if abs(x) < HALF - reach:
                        placed += self._column(kind, x, upper, rng)
                    x += reach + self.shop.gap * rng.uniform(0.5, 1.6)
        return [self._numbered(item, kind, k) for k, (item, kind) in enumerate(placed)]

    def _column(self, kind: str, x: float, upper: bool, rng: np.random.Generator) -> list[tuple[Item, str]]:
        """One facing: a product at the front, sometimes another behind it, or one at the back alone."""
        rows = [rng.uniform(4, 11)] if rng.random() > self.shop.empty else []
        # Rarely straight behind another: a shop pulls its goods forward.
        if rng.random() < (0.16 if rows else 0.6):
            rows.append(rng.uniform(18, 26))
        foot = UPPER if upper else 0.0
        return [
            (Item(self._draw_product(kind, upper, rng), np.array([x + rng.normal(0, 0.5), foot, z]), 0, upper), kind)
            for z in rows
        ]

    def _numbered(self, item: Item, kind: str, k: int) -> Item:
        if kind not in CLASSES:
            return item
        number = len(self.roles) + 1
        self.roles[number] = Role(kind, f"{kind}-{k:02d}")
        return Item(item.sprite, item.spot, number, item.upper)

    def _plan_visits(self, plan: Plan, rng: np.random.Generator) -> list[Visit]:
        """Lets a few hands come, one after the other, and gives each the product that it moves."""
        middle = self.path.target[0]
        front = [k for k, i in enumerate(self._items) if i.spot[2] < 12 and abs(i.spot[0] - middle) < 28]
        visits: list[Visit] = []
        time = rng.uniform(-0.4, 1.0)
        while time < plan.seconds - 1.0 and front:
            k = front.pop(int(rng.integers(len(front))))
            item = self._items[k]
            side = float(rng.choice([-1, 1]))
            visit = Visit(
                spot=item.spot + np.array([0, min(5.0, item.sprite.image.shape[0] / item.sprite.ppc * 0.3), -2.0]),
                outside=np.array([item.spot[0] + side * 14, -38.0, -22.0]),
                elbow=np.array([side * rng.uniform(4, 14), -30.0, -16.0]),
                start=time,
                way=rng.uniform(0.7, 1.1),
                rest=rng.uniform(0.2, 0.6),
                lift=6.0,
                carries=str(rng.choice(["in", "out", "nothing"], p=[0.4, 0.45, 0.15])),
            )
            visits.append(visit)
            self._items[k] = Item(item.sprite, item.spot, item.number, item.upper, visit)
            time = visit.end + rng.uniform(0.3, 1.6)
        return visits

    def draw(self, time: float, exposure: float) -> Stage:
        """Draws the fridge at a time in seconds, back to front."""
        camera = self.path.at(time)
        stage = Stage(camera, SIZE, 25)
        stage.room([self._rooms[name] for name in ("back", "left", "right", "ceiling", "floor")])
        above = camera.eye[1] > UPPER
        if not above:
            stage.back(self._rooms["under"])
        self._shelf(stage, False, time)
        if above:
            stage.back(self._rooms["upper"])
        stage.back(self._rooms["rail_low"])
        self._shelf(stage, True, time)
        stage.back(self._rooms["rail_high"])
        stage.back(self._rooms["rail_top"])
        self._in_hand(stage, time, exposure)
        return stage

    def _shelf(self, stage: Stage, upper: bool, time: float) -> None:
        standing = [i for i in self._items if i.upper is upper and (i.visit is None or i.visit.stands(time))]
        for item in sorted(standing, key=lambda i: -i.spot[2]):
            stage.put(Thing(item.sprite, facing(item.spot, stage.camera), item.number))

    def _in_hand(self, stage: Stage, time: float, exposure: float) -> None:
        camera = stage.camera
        for item in self._items:
            if item.visit is not None and item.visit.holding(time):
                now, before = (self._carried(item, item.visit, t, camera) for t in (time, time - exposure))
                if now is not None:
                    stage.put(Thing(item.sprite, now, item.number, before))
        for visit in self._visits:
            hand, earlier = visit.hand(time), visit.hand(time - exposure)
            if hand is not None:
                before = None if earlier is None else visit.forearm(earlier, camera)
                stage.put(Thing(self._arm, visit.forearm(hand, camera), 0, before))

    @staticmethod
    def _carried(item: Item, visit: Visit, time: float, camera: Camera) -> Matrix | None:
        hand = visit.hand(time)
        return None if hand is None else facing(hand + (item.spot - visit.spot), camera)


def _path(plan: Plan) -> CameraPath:
    """A camera's place belongs to store and camera; its unrest to the clip."""
    place = np.random.default_rng([plan.seed, len(plan.sample), 3, plan.place, int(plan.camera[-1])])
    rng = plan.random(3)
    side, distance = place.uniform(-20, 20), place.uniform(64, 84)
    target = np.array([place.uniform(-12, 12), place.uniform(22, 32), 12.0])
    eye = np.array([target[0] + side, place.uniform(26, 52), -distance])
    handheld = rng.random() < 0.5
    sway = rng.uniform(2.0, 3.6) if handheld else rng.uniform(0.9, 1.8)
    amplitude = [sway, sway * 0.7, sway, sway * 1.2, sway, 0.0, 0.02 if handheld else 0.008]
    pan = np.array([rng.uniform(4, 14) * rng.choice([-1, 1]), rng.uniform(-3, 3), 0.0])
    unrest = Wander(rng, amplitude, 0.12, 0.38 if handheld else 0.25)
    focal = place.uniform(560, 660)
    return CameraPath(eye, target, pan, unrest, focal, SIZE, plan.seconds, place.uniform(-0.035, 0.035))


def _light(shop: Shop, rng: np.random.Generator) -> Light:
    return Light(
        tint=shop.tint,
        slope=(rng.uniform(-0.14, 0.14), rng.uniform(-0.14, 0.10)),
        corner=rng.uniform(0.08, 0.28),
        exposure=shop.exposure * rng.uniform(0.92, 1.06),
        drift=rng.uniform(0.03, 0.14),
        flicker=(rng.uniform(0.0, 0.05), rng.uniform(1.5, 5.0)),
        passer=float(rng.choice([0.0, rng.uniform(0.2, 0.45)])),
    )


def _surface(colour: RGB, wide: float, tall: float, ppc: int, rng: np.random.Generator) -> np.ndarray:
    """A painted or metal sheet with a little dirt, H x W x 3 floats 0..1."""
    shape = (int(tall * ppc), int(wide * ppc))
    worn = 0.93 + 0.10 * clouds(rng, shape, 5) + rng.normal(0, 0.008, shape).astype(np.float32)
    return np.asarray(colour, np.float32) * worn[..., None]


def _bytes(picture: np.ndarray) -> Image:
    return np.ascontiguousarray(np.clip(picture * 255, 0, 255).astype(np.uint8))
