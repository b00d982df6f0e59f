"""Workers that are always there, under a master that does nothing else; see `Manager`.

Manager ─ settings          what it may be told
   ├─ start, run ─▶ background ─▶ instance ─▶ master ─▶ supervise.supervisor ─▶ work (in each worker)
   │                                        ├─ relay, logs      the log, written by the master alone
   │                                        ├─ board, status    what workers note, and how all are
   │                                        ├─ rolling, trial, handover    smooth restarts
   │                                        └─ notify, orphans  systemd, process 1
   └─ stop, status ... ─▶ control ─▶ commands ─▶ master
"""

from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.manager.group import ManagerGroup
from multiprocessing_kit.manager.manager import Manager
from multiprocessing_kit.manager.status import Status, WorkerStatus

__all__ = ["Context", "Manager", "ManagerGroup", "Status", "WorkerStatus"]
