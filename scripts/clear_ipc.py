#!/usr/bin/env python3
"""List this package's System V objects, and remove those whose creators are dead.

Objects of other programs are neither listed nor touched. Without options it removes orphans only. Those
with a name are no orphans when their creator is dead: they are kept, to be found again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Works from a checkout, too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from multiprocessing_kit.ipc.hygiene import IpcObject, remove, scan

_COLUMNS = "{:<12} {:>11} {:>11} {:>12} {:>8}  {:<8}  {}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    found = scan()
    if found:
        print(_table(found))
    orphans = [item for item in found if item.state == "orphaned"]
    if options.check:
        print(f"{len(orphans)} orphaned" if orphans else "no orphans")
        return 1 if orphans else 0
    states = {"orphaned", "kept"} if options.named else {"orphaned"}
    chosen = [item for item in found if options.all or item.state in states]
    if not chosen:
        print("nothing to remove")
    elif options.dry_run:
        print(f"{len(chosen)} would be removed")
    elif any(item.state in ("alive", "in use") for item in chosen) and not options.yes and not _confirmed():
        print("nothing removed")
        return 1
    else:
        print(f"{len(remove(chosen))} removed")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="list only")
    how.add_argument("--check", action="store_true", help="list only; exit status 1 if there is an orphan")
    parser.add_argument(
        "--named",
        action="store_true",
        help="also those with a name, and what is in them, that nobody uses now",
    )
    parser.add_argument("--all", action="store_true", help="also those in use: their users will fail")
    parser.add_argument("--yes", action="store_true", help="do not ask before removing those in use")
    return parser


def _table(found: Sequence[IpcObject]) -> str:
    rows = [_COLUMNS.format("kind", "id", "key", "size", "creator", "state", "name")]
    for item in found:
        size = str(item.size) if item.size else "-"
        row = item.kind, item.id, f"{item.key:#x}", size, item.pid or "-", item.state, item.name
        rows.append(_COLUMNS.format(*row).rstrip())
    return "\n".join(rows)


def _confirmed() -> bool:
    print("Some of these are in use, and the programs that use them will fail. Type yes to remove them all:")
    try:
        return input().strip() == "yes"
    except EOFError:
        return False


if __name__ == "__main__":
    sys.exit(main())
