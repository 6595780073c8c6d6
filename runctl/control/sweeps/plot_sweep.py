"""PlotSweep: stores the plots of a sweep that has ended, if it has enough values for any."""

from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import PlottedSweep
from runctl.control.sweeps.ask_trial import read_sweep
from runctl.model.errors import SetupError
from runctl.model.identity import sweep_results_key
from runctl.plots.drawing import render_plots
from runctl.plots.facts import NothingToPlotError, plots_of


def plot_sweep(services: SweepServices, group_id: str) -> PlottedSweep:
    """Draw the trials as the ledger has them, and replace earlier pictures.

    Raises SetupError if this function lacks matplotlib.
    """
    _, request = read_sweep(services, group_id)
    try:
        facts = plots_of(group_id, request.sweep, services.trials.list_trials(group_id))
    except NothingToPlotError as exc:
        return PlottedSweep(group_id=group_id, reason=str(exc))
    try:
        pictures = render_plots(facts)
    except SetupError as exc:
        raise SetupError(f"{exc}; deploy again with access to a package index") from exc
    keys = {sweep_results_key(group_id, f"plots/{name}"): name for name in pictures}
    for key, name in keys.items():
        services.blobs.put(key, pictures[name], content_type="image/png")
    return PlottedSweep(group_id=group_id, plots=tuple(keys))
