"""Simulates a fleet of agents in virtual time, and draws docs/images/agent-*.svg: `python tools/agent_fleet.py`.

The decisions are those of the real `certplane.agent.rotation`; the API server, the clock and the disks are simulated.
The seed is fixed, so the pictures are always the same; a test checks that they are current.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import pathlib
import random
import sys
from collections.abc import Iterator, Sequence

from certplane.agent import rotation
from certplane.agent.rotation import Moment, Outcome, Policy, Rotation
from certplane.agent.schedule import RenewalTimes, Validity

TARGET = pathlib.Path(__file__).resolve().parent.parent / "docs" / "images"
SEED = 20260101
HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY
#: The first moment, in POSIX seconds: Monday, 5 January 2026.
START = 1_767_571_200.0


@dataclasses.dataclass(frozen=True)
class Server:
    """An API server. `limit`: requests a second; more are refused with 429. `outages`: begin and end of each, in
    seconds from the start. `approval`: seconds from the creation of a CSR to the certificate.
    """

    limit: int = 1_000_000
    outages: Sequence[tuple[float, float]] = ()
    approval: float = 1.0
    lifetime: float = 30 * DAY


@dataclasses.dataclass
class Result:
    """What happened. Times are seconds from the start. `offered` and `admitted` are requests in each second."""

    renewals: list[float] = dataclasses.field(default_factory=list)
    expirations: list[float] = dataclasses.field(default_factory=list)
    offered: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    admitted: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    steps: int = 0

    def per_hour(self, end: float) -> list[int]:
        """Renewals in each hour."""
        counts = collections.Counter(int(time // HOUR) for time in self.renewals)
        return [counts[hour] for hour in range(int(end // HOUR))]


class Node:
    """One agent: its decisions, and what it has stored."""

    __slots__ = ("command", "created", "rotation", "steps", "validity")

    def __init__(self, policy: Policy, numbers: random.Random, validity: Validity | None) -> None:
        self.rotation = Rotation(policy, numbers.random)
        self.steps = self.rotation.steps()
        self.command = next(self.steps)
        self.validity = validity
        self.created = 0.0


class Fleet:
    """Nodes and their API server. `validities` are the certificates that the nodes have at the start."""

    def __init__(
        self, server: Server, validities: Sequence[Validity | None], times: RenewalTimes | None = None
    ) -> None:
        self.result = Result()
        self._server = server
        self._random = random.Random(SEED)  # noqa: S311 - a simulation, always the same
        policy = Policy("kubernetes.io/kube-apiserver-client-kubelet", times or RenewalTimes(), is_identity=True)
        self._nodes = [Node(policy, self._random, validity) for validity in validities]
        self._serial = len(validities)

    def run(self, seconds: float) -> Result:
        """Let time pass."""
        due = [(START, number) for number in range(len(self._nodes))]
        heapq.heapify(due)
        end = START + seconds
        while due and due[0][0] <= end:
            now, number = heapq.heappop(due)
            heapq.heappush(due, (self._work(self._nodes[number], now), number))
        return self.result

    def _work(self, node: Node, now: float) -> float:
        """Answer the commands of a node until it waits. Returns until when."""
        moment = Moment(now, now)
        event: rotation.Event = rotation.Woken(moment)
        if not isinstance(node.command, rotation.Wait):
            event = self._answer(node, moment)
        while True:
            self.result.steps += 1
            command = node.command = node.steps.send(event)
            if isinstance(command, rotation.Wait):
                return max(now, min(command.wall, command.steady))
            event = self._answer(node, moment)

    def _answer(self, node: Node, now: Moment) -> rotation.Event:
        match node.command:
            case rotation.Load():
                return rotation.Loaded(now, node.validity)
            case rotation.Submit() | rotation.Fetch() as command:
                refusal = self._refuse(now)
                if refusal is not None:
                    return refusal
                if isinstance(command, rotation.Submit):
                    node.created = now.wall
                    return rotation.Submitted(now, "csr", "uid")
                if now.wall < node.created + self._server.approval:
                    return rotation.Fetched(now, Outcome.PENDING)
                self._serial += 1
                issued = Validity(f"{self._serial:x}", now.wall - 300, now.wall + self._server.lifetime, now.wall)
                return rotation.Fetched(now, Outcome.ISSUED, "", b"certificate", issued)
            case rotation.Save():
                return self._save(node, now)
        return rotation.Done(now)

    def _save(self, node: Node, now: Moment) -> rotation.Event:
        former = node.validity
        if former is not None and former.not_after < now.wall:
            self.result.expirations.append(former.not_after - START)
        node.validity = Validity(f"{self._serial:x}", now.wall - 300, now.wall + self._server.lifetime, now.wall)
        self.result.renewals.append(now.wall - START)
        return rotation.Saved(now, node.validity)

    def _refuse(self, now: Moment) -> rotation.Event | None:
        """The event of a request that fails; None if the server answers."""
        seconds = now.wall - START
        if any(begin <= seconds < end for begin, end in self._server.outages):
            return rotation.Unreachable(now, "the server cannot be reached")
        second = int(seconds)
        self.result.offered[second] += 1
        if self.result.admitted[second] >= self._server.limit:
            return rotation.Refused(now, 429, "too many requests", 1.0)
        self.result.admitted[second] += 1
        return None

    def validities(self) -> Iterator[Validity | None]:
        """The certificates that the nodes have now."""
        return (node.validity for node in self._nodes)


# --- scenarios ----------------------------------------------------------------------------------------------------


def joined(nodes: int, lifetime: float, spread: float) -> list[Validity | None]:
    """Certificates of nodes that joined one after the other, over `spread` seconds until the start."""
    begins = [START - spread * number / nodes for number in range(nodes)]
    return [Validity(f"n{number}", begin - 300, begin + lifetime, begin) for number, begin in enumerate(begins)]


def year(nodes: int = 6000, lifetime: float = 30 * DAY) -> tuple[Fleet, Result]:
    """A year of a fleet that grew over three weeks; the API is away for three days in March, and for one in August."""
    server = Server(lifetime=lifetime, outages=((70 * DAY, 73 * DAY), (220 * DAY, 221 * DAY)), approval=0.0)
    fleet = Fleet(server, joined(nodes, lifetime, 0.7 * lifetime))
    return fleet, fleet.run(YEAR)


def same_day(nodes: int = 6000, lifetime: float = 30 * DAY) -> tuple[Fleet, Result]:
    """A year of a fleet that was installed in one hour: the worst case for its first renewals."""
    fleet = Fleet(Server(lifetime=lifetime, approval=0.0), joined(nodes, lifetime, HOUR))
    return fleet, fleet.run(YEAR)


def cold_start(nodes: int = 6000, limit: int = 100) -> tuple[Fleet, Result]:
    """A data centre is switched on after all its certificates have expired. The API admits some requests a second."""
    expired = [Validity(f"n{number}", START - 40 * DAY, START - 10 * DAY) for number in range(nodes)]
    fleet = Fleet(Server(limit=limit, approval=2.0), expired)
    return fleet, fleet.run(HOUR)


# --- pictures -----------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 900, 320, 60, 50, 20, 50


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plot: its name, its colour, and points."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def plot(title: str, x_title: str, y_title: str, lines: Sequence[Line]) -> str:
    """Lines in a coordinate system, as SVG."""
    x_end = _round_up(max(x for line in lines for x, _ in line.points))
    y_end = _round_up(max(y for line in lines for _, y in line.points))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> str:
        return f"{_LEFT + width * x / x_end:.1f},{_TOP + height * (1 - y / y_end):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        "<style>text { font-size: 12px }</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" style="font-size: 15px">{title}</text>',
    ]
    for step in range(6):
        y = _TOP + height * (1 - step / 5)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y_end * step / 5:g}</text>')
        x = _LEFT + width * step / 5
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 30}" text-anchor="middle">{x_end * step / 5:g}</text>')
    parts.append(f'<text x="{_LEFT + width / 2:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">{x_title}</text>')
    parts.append(f'<text x="{_LEFT - 50}" y="{_TOP - 12}">{y_title}</text>')
    for number, line in enumerate(lines):
        style = f'fill="none" stroke="{line.colour}" stroke-width="1.2"' + (' stroke-dasharray="6 4"' * line.dashed)
        parts.append(f'<polyline {style} points="{" ".join(place(x, y) for x, y in line.points)}"/>')
        x = _LEFT + 260 + 220 * number
        parts.append(f'<path d="M{x} {_TOP - 16}h24" {style}/><text x="{x + 30}" y="{_TOP - 12}">{line.name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 with any power of ten: the end of an axis."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value)


def renewals_picture(grown: Result, installed: Result, nodes: int = 6000, lifetime: float = 30 * DAY) -> str:
    """Renewals an hour, as the mean of each day, against the ideal."""
    ideal = nodes / (0.8 * lifetime / HOUR)

    def daily(result: Result) -> list[tuple[float, float]]:
        hours = result.per_hour(YEAR)
        return [(day + 0.5, sum(hours[day * 24 : day * 24 + 24]) / 24) for day in range(365)]

    return plot(
        f"{nodes} agents, certificates of {lifetime / DAY:g} days: renewals an hour in a year",
        "day; the API is away on days 70 to 72, and on day 220, for the fleet that has grown",
        "renewals an hour",
        [
            Line("installed in one hour", "#e69f00", daily(installed)),
            Line("grown over 21 days", "#0072b2", daily(grown)),
            Line(f"ideal: {ideal:.1f}", "#333", [(0, ideal), (365, ideal)], dashed=True),
        ],
    )


def cold_start_picture(result: Result, limit: int = 100) -> str:
    """Requests a second of a fleet whose certificates have expired."""
    end = max(result.offered) + 1
    done = collections.Counter(int(time) for time in result.renewals)
    return plot(
        f"{len(result.renewals)} agents start with expired certificates; the API admits {limit} requests a second",
        "seconds",
        "a second",
        [
            Line("requests sent", "#e69f00", [(second, result.offered[second]) for second in range(end)]),
            Line("certificates obtained", "#0072b2", [(second, done[second]) for second in range(end)]),
            Line("limit of the API", "#333", [(0, limit), (end, limit)], dashed=True),
        ],
    )


def main(directory: pathlib.Path) -> None:
    """Write the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "agent-renewals.svg").write_text(renewals_picture(year()[1], same_day()[1]), "utf-8")
    (directory / "agent-cold-start.svg").write_text(cold_start_picture(cold_start()[1]), "utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
