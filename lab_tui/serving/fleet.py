"""The fleet: N instances and the front before them, kept as they were asked for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path

from lab_tui import access
from lab_tui.config import Settings
from lab_tui.model import FleetSpec, InstanceState, InstanceView, LabError, SlotsView
from lab_tui.serving.cards import Usable
from lab_tui.serving.front import Front, check_files
from lab_tui.serving.front_keeper import FrontKeeper
from lab_tui.serving.instance import GB, LADDER, Instance
from lab_tui.serving.keys import Keys
from lab_tui.serving.mps import Daemon
from lab_tui.serving.nginx_conf import KEYS_FILE, FrontSpec
from lab_tui.serving.parts import LlamaServer, Nginx
from lab_tui.serving.placement import NoRoom, Seat
from lab_tui.serving.planner import Berth, CardsRead, LookAtCards, Planner, no_cards
from lab_tui.serving.ports import check_free
from lab_tui.serving.process import Process
from lab_tui.serving.record import FleetRecord, RecordFile

HEAR_S = 5.0  # how long an engine waits for what it takes over to answer, instances and front


class Fleet:
    """Commands come one at a time; ``changed`` is called after every change anywhere in it."""

    def __init__(
        self,
        settings: Settings,
        runtime: Path,
        logs: Path,
        changed: Callable[[], None],
        look: LookAtCards = no_cards,
    ) -> None:
        """``look`` gives the cards as they are read."""
        self.spec: FleetSpec | None = None
        self.front = Front(runtime / "nginx", logs / "nginx.log", self._on_change)
        self._settings = settings
        self._logs = logs
        self._record = RecordFile(runtime / "fleet.json")
        self._keeper = FrontKeeper(self.front, self._front_spec, self._nginx, changed, settings.serve.drain_s)
        self._changed = changed
        self._instances: list[Instance] = []
        self._lock = asyncio.Lock()
        self._mps = Daemon(runtime / "mps", logs / "mps.log", self._on_change)
        self._planner = Planner(settings, look, runtime, self._mps.folder)
        self._keys = Keys(runtime)

    # -- looking

    @property
    def api_key(self) -> str | None:
        """A key that instances and front take; None when they ask for none."""
        return self._keys.given[0] if self._keys.given else None

    @property
    def notice(self) -> str:
        """What is wrong beside the instances, for the screen; "" when nothing is."""
        problems = (self._keeper.problem, self._keys.problem, self._record.problem, self._mps.problem)
        return "; ".join(filter(None, problems))

    @property
    def mps_pid(self) -> int | None:
        """The MPS daemon of its own; None when none runs."""
        return self._mps.record.pid if self._mps.record else None

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances, by index."""
        return tuple(self._instances)

    def views(self) -> tuple[InstanceView, ...]:
        """The instances as viewers show them."""
        return tuple(instance.view() for instance in self._instances)

    def slots(self, index: int) -> SlotsView:
        """The slots of one instance. Raises LabError when there is none of that number."""
        return self._get(index).slots_view()

    async def find_parts(self) -> tuple[LlamaServer, Nginx]:
        """The llama-server and nginx to use, asked once. Raises LabError for what is missing."""
        return await self._planner.find_parts()

    def usable_cards(self, read: CardsRead) -> Usable | None:
        """The cards that instances can be given; None while no llama-server was asked."""
        return self._planner.cards(read, self._instances)

    def learn(self, model: str, more_vram_bytes: int) -> None:
        """An instance of ``model`` took so much more on a card than is estimated: placement counts it in."""
        self._planner.learn(model, more_vram_bytes)

    async def seats(self, spec: FleetSpec) -> tuple[Seat, ...]:
        """Where the instances of ``spec`` would run if it came up now. Raises LabError."""
        return await self._planner.seats(spec, self.spec, self._instances)

    async def check(self, spec: FleetSpec, *, for_room: bool = True) -> None:
        """Raise LabError when ``spec`` cannot be had, as far as room on the cards goes only ``for_room``.

        Nothing is touched.
        """
        async with self._lock:
            try:
                await self._checked(spec)
            except NoRoom:
                if for_room:
                    raise

    # -- commands

    async def up(self, spec: FleetSpec) -> None:
        """Make the fleet be ``spec``: keep what fits, stop what does not, start what is missing.

        Returns when everything is checked and starting. Raises LabError before anything was touched
        when the spec cannot be had.
        """
        async with self._lock:
            berths = await self._checked(spec)
            started_from_nothing = not self._instances
            keys = access.read_keys(spec)
            try:
                if spec.mps == "on":
                    await self._mps.start()  # it disturbs none of those that run; one that fails stops none
                await self._retire(berths if keys == self._keys.given else ())
                if spec.mps != "on":
                    await self._mps.stop()
                self._keys.give(keys)
                self.spec = spec
                self._instances += [
                    self._instance(i, *berths[i]) for i in range(len(self._instances), spec.instances)
                ]
                await self._keeper.apply()
            except LabError:
                if started_from_nothing:
                    await self._down()
                elif self.spec is not None and self.spec.mps != "on":
                    await self._mps.stop()
                raise
            self._keeper.begin()
            await asyncio.gather(*(instance.start() for instance in self._instances))

    async def down(self) -> None:
        """Stop everything. Returns when no process of the fleet is left."""
        async with self._lock:
            await self._down()

    def kill(self) -> None:
        """Kill every process at once, for a stop that is to wait for nothing."""
        for instance in self._instances:
            instance.kill()
        self.front.kill()
        self._mps.kill()

    async def start(self, index: int) -> None:
        """Start one instance."""
        async with self._lock:
            await self._get(index).start()

    async def stop(self, index: int) -> None:
        """Take one instance out of the front, let its streams finish for a while, and stop it."""
        async with self._lock:
            await self._keeper.stop([self._get(index)])

    async def restart(self, index: int) -> None:
        """Stop and start one instance."""
        async with self._lock:
            instance = self._get(index)
            await self._keeper.stop([instance])
            await instance.start()

    async def wait_ready(self) -> None:
        """Until every instance is ready and in the front. Raises LabError when one failed or hangs."""
        while True:
            failed = [i for i in self._instances if i.state == InstanceState.FAILED]
            if failed:
                raise LabError(f"instance {failed[0].index} failed: {failed[0].reason}")
            hung = [i for i in self._instances if i.state == InstanceState.HUNG]
            if hung:
                raise LabError(f"instance {hung[0].index} hangs: {hung[0].reason}")
            if self.spec is None:
                raise LabError("the fleet was stopped")
            if all(i.state == InstanceState.READY for i in self._instances):
                await self._keeper.apply()
                return
            if any(i.state == InstanceState.STOPPED for i in self._instances):
                async with self._lock:  # a restart passes through that state, but keeps the lock
                    stopped = [i for i in self._instances if i.state == InstanceState.STOPPED]
                if stopped:
                    raise LabError(f"instance {stopped[0].index} was stopped", "`lab-tui start` starts it")
            await asyncio.sleep(0.05)

    # -- one engine after the other

    async def adopt(self) -> bool:
        """Take over the fleet of an engine that died; instances that died meanwhile start again.

        True when there was one.
        """
        record = self._record.read()
        if record is None:
            return False
        found = {i: p for i, r in record.processes.items() if (p := Process.adopt(r)) is not None}
        async with self._lock:
            if not found:
                await self._end_leftovers(record)
                return False
            self.spec = record.spec
            self._keys.adopt(record.spec)
            seats = record.seats or (Seat(),) * len(record.commands)
            berths = zip(record.commands, seats, strict=True)
            self._instances = [self._instance(i, *berth) for i, berth in enumerate(berths)]
            wanted = set(record.wanted)
            for index in sorted(found.keys() & wanted):
                await self._instances[index].start(found[index])
            await asyncio.gather(*(found[index].stop(LADDER) for index in found.keys() - wanted))
            if record.spec.mps == "on":
                await self._mps.adopt(record.mps, HEAR_S)  # those that begin now want it
            else:
                await self._end_mps(record)
            for index in sorted(wanted - found.keys()):
                await self._instances[index].start()
            if record.front is not None:
                await self.front.adopt(record.front)
            await self._until_heard([self._instances[i] for i in wanted & found.keys()])
            try:
                await asyncio.wait_for(self._keeper.attempt(), HEAR_S)
            except TimeoutError:  # an nginx that hangs keeps no viewer waiting
                self._keeper.due()
            self._keeper.begin()
        return True

    async def _end_mps(self, record: FleetRecord) -> None:
        """End the MPS daemon that an engine before had, and what one before that left."""
        if record.mps is not None:
            await self._mps.adopt(record.mps, 0)
        await self._mps.stop()

    async def _until_heard(self, adopted: list[Instance]) -> None:
        """Until each adopted instance has said how it is, or is slow to: the front keeps them till then."""
        deadline = time.monotonic() + HEAR_S
        while time.monotonic() < deadline and any(i.state == InstanceState.STARTING for i in adopted):
            await asyncio.sleep(0.02)

    async def _end_leftovers(self, record: FleetRecord) -> None:
        """End what a fleet had beside its instances, of which none is left."""
        if record.front is not None:
            await self.front.adopt(record.front)
            await self.front.stop()
        await self._end_mps(record)
        self._keys.give(())
        self._record.remove()

    async def detach(self) -> None:
        """Leave everything running for the next engine."""
        async with self._lock:
            if self.spec is None:  # what a start began that was given up, nobody would find
                await self._down()
                return
            await self._keeper.end()
            await asyncio.gather(*(instance.detach() for instance in self._instances))
            await self.front.detach()
            await self._mps.detach()

    # -- inside the lock

    async def _checked(self, spec: FleetSpec) -> tuple[Berth, ...]:
        """How each instance is run, after everything that can be wrong was looked at."""
        berths = await self._planner.plan(spec, self.spec, self._instances)
        check_files(spec.max_streams)
        ours = {i.port for i in self._instances if i.record is not None}
        for index in range(spec.instances):
            if spec.base_port + index not in ours:
                await check_free("127.0.0.1", spec.base_port + index, f"instance {index}")
        listening = self.spec if self.front.record is not None else None
        ours_too = listening is not None and listening.front_port == spec.front_port
        await check_free(spec.host, 0 if ours_too else spec.front_port, "the front")
        return berths

    async def _retire(self, berths: tuple[Berth, ...]) -> None:
        """Stop the instances that have no berth any more, or another one."""
        kept = 0
        for instance, berth in zip(self._instances, berths, strict=False):
            if (instance.command, instance.seat) != berth:
                break
            kept += 1
        await self._keeper.stop(self._instances[kept:])
        del self._instances[kept:]

    def _instance(self, index: int, command: tuple[str, ...], seat: Seat) -> Instance:
        assert self.spec is not None
        return Instance(
            index,
            command,
            seat,
            port=self.spec.base_port + index,
            slots=self.spec.parallel,
            log=self._logs / f"instance-{index}.log",
            api_key=self.api_key,
            poll_s=self._settings.engine.poll_s,
            ready_timeout_s=self._settings.serve.ready_timeout_s,
            memory_limit_bytes=self._settings.serve.memory_limit_gb * GB or math.inf,
            changed=self._on_change,
            see_off=self._keeper.see_off,
        )

    def _get(self, index: int) -> Instance:
        if not 0 <= index < len(self._instances):
            have = f"the fleet has 0 to {len(self._instances) - 1}" if self._instances else "no fleet is up"
            raise LabError(f"there is no instance {index}: {have}", "`lab-tui status` lists them")
        return self._instances[index]

    async def _down(self) -> None:
        await self._keeper.end()
        await self.front.stop()
        await asyncio.gather(*(instance.stop() for instance in self._instances))
        await self._mps.stop()
        self._instances.clear()
        self.spec = None
        self._keys.give(())
        self._keeper.problem = ""
        self._planner.forget()
        self._record.remove()
        self._on_change()

    # -- what follows the instances

    async def _nginx(self) -> Nginx:
        return (await self.find_parts())[1]

    def _front_spec(self) -> FrontSpec | None:
        """The front as it is wanted: before the ready instances that are not leaving."""
        spec = self.spec
        if spec is None:
            return None
        ready = (i for i in self._instances if i.state == InstanceState.READY)
        return FrontSpec(
            host=spec.host,
            port=spec.front_port,
            backends=tuple(i.address for i in ready if i.index not in self._keeper.leaving),
            max_streams=spec.max_streams,
            balancing=spec.balancing,
            max_body_mb=spec.max_body_mb,
            keys_file=KEYS_FILE if spec.api_key_file else "",
            keys=self._keys.given,
        )

    def _on_change(self) -> None:
        self._planner.saw(self._instances)
        self._keeper.due()
        self._save()
        self._changed()

    def _save(self) -> None:
        """Keep on disk what an heir needs, whenever it differs."""
        if self.spec is None:
            return
        self._record.write(
            FleetRecord(
                spec=self.spec,
                commands=tuple(i.command for i in self._instances),
                seats=tuple(i.seat for i in self._instances),
                wanted=tuple(i.index for i in self._instances if i.wanted),
                processes={i.index: i.record for i in self._instances if i.record is not None},
                front=self.front.record,
                mps=self._mps.record,
            )
        )
