"""The host runtime: programs that run as processes of this machine."""

from collections.abc import Callable

from runctl.agent.runtime.host_process import HostProcess
from runctl.agent.runtime.observer import ProcessObserver
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.process_program import ProcessProgram
from runctl.agent.runtime.process_table import end_all_but_tools
from runctl.agent.runtime.signal_trace import SignalTrace
from runctl.agent.runtime.written_places import prepare_places


class HostRuntime:
    """Starts programs as processes of this machine. `on_exit` is called when one has exited."""

    def __init__(self, *, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._trace = SignalTrace()

    def open(self) -> None:
        """Begin to trace signals."""
        self._trace.start()

    def start(self, contract: Contract) -> ProcessProgram:
        """Start a program. Raises RequestError if its command cannot be started."""
        prepare_places(contract)
        observer = ProcessObserver(self._trace)
        observer.start()
        try:
            process = HostProcess(contract, on_exit=self._on_exit)
        except BaseException:
            observer.stop()
            raise
        return ProcessProgram(process, observer, contract)

    def kill_all(self) -> None:
        """SIGKILL all descendants of the agent, but the commit of an environment."""
        end_all_but_tools()

    def close(self) -> None:
        """Stop tracing signals."""
        self._trace.stop()
