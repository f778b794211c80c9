"""Prints tables that no terminal is too narrow for."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def open_table() -> Table:
    """Return a table without columns, in the style of all."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")


def fits(table: Table, console: Console) -> bool:
    """Return whether a table has room for every name and number."""
    unlimited = console.options.update_width(sys.maxsize)
    return console.measure(table, options=unlimited).maximum <= console.width


def print_table(table: Table, console: Console) -> None:
    """Print a table; without room for it, a list of cells for each row, below its first cell."""
    if fits(table, console):
        console.print(table)
        return
    names = [" ".join(str(column.header).split()) for column in table.columns]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        console.print(first)
        for name, cell in zip(names[1:], others, strict=True):
            value = cell if isinstance(cell, Text) else " ".join(str(cell).split())
            console.print(Text.assemble(f"  {name}  ", value))
