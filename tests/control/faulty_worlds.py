"""Worlds in which a call fails, ends the process, or comes after something else."""

from collections.abc import Callable

from tests.control.fakes import World

PORTS = (
    "ledger", "groups", "fleet", "quotas", "prices", "commands", "workflow", "objects", "inputs",
    "processing_jobs", "notices", "images", "secrets", "builds",
)  # fmt: skip


class CrashError(BaseException):
    """The function's process ended here: no later code ran, not even an exception handler."""


class Fragile:
    """A world whose `fuse`-th call to any port fails, after it took effect if `after` is set.

    With `error` the function sees the failure, as for a throttled call or a lost response; without,
    its process ends there.
    """

    def __init__(
        self, world: World, *, fuse: int, after: bool, error: Exception | None = None
    ) -> None:
        self.clock, self.place = world.clock, world.place
        self.left = fuse
        self.after = after
        self.error = error
        for name in PORTS:
            setattr(self, name, _FragilePort(getattr(world, name), self))

    def burn(self) -> bool:
        self.left -= 1
        return self.left == 0


class Overtaken:
    """A world in which something else happens just before the `at`-th call to any port."""

    def __init__(self, world: World, *, at: int, meanwhile: Callable[[], None]) -> None:
        self.clock, self.place = world.clock, world.place
        self.left = at
        self.meanwhile = meanwhile
        for name in PORTS:
            setattr(self, name, _OvertakenPort(getattr(world, name), self))


class _OvertakenPort:
    def __init__(self, port: object, world: Overtaken) -> None:
        self._port = port
        self._world = world

    def __getattr__(self, name: str):
        if not callable(found := getattr(self._port, name)):
            return found  # a fact that the port knows without a call

        def call(*args, **kwargs):
            self._world.left -= 1
            if self._world.left == 0:
                self._world.meanwhile()
            return getattr(self._port, name)(*args, **kwargs)

        return call


class _FragilePort:
    def __init__(self, port: object, world: Fragile) -> None:
        self._port = port
        self._world = world

    def __getattr__(self, name: str):
        method = getattr(self._port, name)
        if not callable(method):
            return method  # a fact that the port knows without a call

        def call(*args, **kwargs):
            ends = self._world.burn()
            if ends and not self._world.after:
                raise self._world.error or CrashError(name)
            answer = method(*args, **kwargs)
            if ends:
                raise self._world.error or CrashError(name)
            return answer

        return call
