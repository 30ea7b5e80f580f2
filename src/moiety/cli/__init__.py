"""The command line: every verb parses its words, calls one function of a lower floor and prints.

This package imports typer and nothing heavier; a verb imports what it needs when it runs, so that ``moiety --help``
answers at once. How errors and Ctrl-C leave the program is decided in one place, :mod:`moiety.cli.door`.
"""

from __future__ import annotations

from moiety.cli import data, environment, look, models, recipes, runs
from moiety.cli.door import new_app

app = new_app()
app.command("env")(environment.env)
app.add_typer(recipes.app, name="recipes")
app.command("upcycle")(models.upcycle)
app.command("params")(models.params)
app.add_typer(data.app, name="data")
app.command("train")(runs.train)
app.command("compare")(runs.compare)
app.command("evaluate")(runs.evaluate)
app.command("inspect")(look.inspect)
app.command("chat")(look.chat)
app.command("demo")(runs.demo)


def main() -> None:
    """Entry point of the ``moiety`` command."""
    app(prog_name="moiety")


__all__ = ["app", "main"]
