"""`graphopt doctor`."""

from __future__ import annotations

from graphopt.commands import options
from graphopt.commands.progress import shown


def doctor(json: options.Json = None) -> None:
    """Show what this machine has of all that graphopt can use, and what for.

    Ends with 3 if something is missing that every command needs, else with 0. --json prints a list
    of name, ok, found (or what is wrong), needed_for and install.
    """
    from graphopt.devices.doctor import broken, examine, table, to_json
    from graphopt.devices.parts import parts
    from graphopt.display.tables import console
    from graphopt.errors import CheckFailed

    with shown("looking around"):
        findings = examine(parts())
    if not options.put_json(json, to_json(findings)):
        console().print(table(findings))
    if names := broken(findings):
        raise CheckFailed(f"every command needs what is missing here: {', '.join(names)}")
