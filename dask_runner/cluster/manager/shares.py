"""How the slots of a cluster are divided between the runs that use it. Pure arithmetic."""

from collections.abc import Mapping


def shares(slots: Mapping[str, int], demands: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """The slots of each host for each run, as `{run: {host: slots}}`.

    Runs get equal numbers in all, but none more than its demand as long as another one wants it
    (max-min fairness); what nobody wants is dealt out evenly too, so that a run whose demand grows
    need not wait to be told. A run that is alone gets everything.
    """
    left = _entitlements(sum(slots.values()), demands)
    dealt: dict[str, dict[str, int]] = {run: {} for run in demands}
    for host, number in slots.items():
        for run, given in _in_proportion(number, left).items():
            dealt[run][host] = given
            left[run] -= given
    return dealt


def _entitlements(total: int, demands: Mapping[str, int]) -> dict[str, int]:
    """The slots of each run in all; they add up to `total`."""
    entitled = dict.fromkeys(demands, 0)
    wanting = dict(demands)
    while total and any(wanting.values()):
        hungry = [run for run, wanted in wanting.items() if wanted]
        each = max(1, total // len(hungry))
        for run in hungry[:total]:
            given = min(each, wanting[run], total)
            entitled[run] += given
            wanting[run] -= given
            total -= given
    for place, run in enumerate(entitled):
        entitled[run] += (total + place) // len(entitled)
    return entitled


def _in_proportion(number: int, left: Mapping[str, int]) -> dict[str, int]:
    """`number` slots of one host in proportion to what each run is still to get."""
    owed = max(1, sum(left.values()))
    given = {run: number * wanted // owed for run, wanted in left.items()}
    # What rounding down has kept back goes to those it took most from.
    by_loss = sorted(left, key=lambda run: number * left[run] % owed, reverse=True)
    for run in by_loss[: number - sum(given.values())]:
        given[run] += 1
    return given
