"""The database of a study that other machines see too: how it is reached, what it says, and what it takes back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial

from tasks.core.errors import MachineError, UsageError
from tasks.core.log import log
from tasks.tune.methods import experimental

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: The environment variable that names the database: it may hold a password, which no file of settings should.
ADDRESS = "ASSAY_TUNE_STORAGE"
_CONNECT_SECONDS = 10
#: The connections that keep studies for this process, by database and study: PostgreSQL lets go when it ends.
_kept: dict[tuple[str, str], Connection] = {}
#: In the first, a study is kept from other searches (:func:`keep`); in the second it is told that it is not.
_DIALECTS = ("postgresql", "sqlite")
_RULE = f"tune.storage: shared needs the address of a database in {ADDRESS}"
_WAY_OUT = f"export {ADDRESS}=postgresql://user:password@host/database, or grpc://host:port of a proxy"


def storage() -> BaseStorage:
    """The database that :data:`ADDRESS` names, or a proxy in front of one.

    Raises:
        UsageError: if there is no such address, or what it needs is not installed.
        MachineError: if a proxy does not answer.
    """
    address = os.environ.get(ADDRESS, "")
    return _proxy(address) if address.startswith("grpc://") else _database(address)


def _database(address: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(address)
        if url.get_dialect().name not in _DIALECTS:
            found = f"{url.get_backend_name()}, where nothing keeps two searches from one study"
            raise UsageError(_RULE, found, _WAY_OUT)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        waits = {"connect_timeout": _CONNECT_SECONDS} if url.get_backend_name() == "postgresql" else {}
        whole = url.render_as_string(hide_password=False)
        return RDBStorage(whole, engine_kwargs={"pool_pre_ping": True, "connect_args": waits})
    except ImportError as error:
        way_out = "pip install '.[postgresql]', or install the driver that the address names"
        raise UsageError(_RULE, "the database's driver is not installed", way_out) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        found = "it is not set" if not address else "what is there is none"
        raise UsageError(_RULE, found, _WAY_OUT) from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise UsageError(_RULE, _without_address(str(error)), "name a database of its own, or upgrade it") from error


def _proxy(address: str) -> BaseStorage:
    try:
        where = urlsplit(address)
        host, port = where.hostname, where.port
    except ValueError:  # the port is no number
        host = port = None
    if not host or port is None:
        raise UsageError(_RULE, "a proxy's address without host or port", _WAY_OUT)
    try:
        proxy = experimental(lambda: optuna.storages.GrpcStorageProxy(host=host, port=port))
        proxy.wait_server_ready(_CONNECT_SECONDS)
    except ImportError as error:
        raise UsageError(_RULE, "the package `grpcio` is not installed", "pip install '.[grpc]'") from error
    except ConnectionError as error:
        raise _no_answer(f"the proxy at {host}:{port} does not answer") from error
    return proxy


def keep(storage: BaseStorage, name: str) -> None:
    """Keep a study in PostgreSQL for this process: another search would take its running trials for abandoned ones.

    Raises:
        MachineError: if another process has it.
    """
    if not isinstance(storage, RDBStorage) or (storage.url, name) in _kept:
        return
    if storage.engine.dialect.name != "postgresql":
        log.warning("tune: nothing keeps another search from study %s: only PostgreSQL does; see to it", name)
        return
    from sqlalchemy import text

    connection = storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    connection.detach()  # closed, it is closed, and not given to others with the lock on it
    wanted = text("SELECT pg_try_advisory_lock(hashtext('assay.tune'), hashtext(:name))")
    if not connection.scalar(wanted, {"name": name}):
        connection.close()
        way_out = (
            "wait for its end, end it (or what a dead machine left of its connection), or set another `tune.study`"
        )
        raise MachineError("one search at a time may run a study", f"another one runs {name}", way_out)
    _kept[storage.url, name] = connection


def replaced(storage: BaseStorage, trial: FrozenTrial, fresh: FrozenTrial) -> bool:
    """Let an unfinished trial be as ``fresh``, which waits to be run and has attributes alone.

    At once or not at all. A storage that is no SQL database has no way to take back what it was told: it is left as it
    was, and the answer is no.
    """
    if not isinstance(storage, RDBStorage):
        return False
    from optuna.storages._rdb import models

    told = (
        models.TrialParamModel, models.TrialIntermediateValueModel, models.TrialSystemAttributeModel,
        models.TrialUserAttributeModel,
    )  # fmt: skip
    with storage.scoped_session() as session, session.begin():
        for kind in told:
            session.query(kind).filter_by(trial_id=trial._trial_id).delete()
        for kind, noted in (
            (models.TrialSystemAttributeModel, fresh.system_attrs),
            (models.TrialUserAttributeModel, fresh.user_attrs),
        ):
            for key, value in noted.items():
                session.add(kind(trial_id=trial._trial_id, key=key, value_json=json.dumps(value)))
        session.query(models.TrialModel).filter_by(trial_id=trial._trial_id).update({"state": fresh.state})
    return True


@contextmanager
def errors() -> Iterator[None]:
    """Turn "no answer", "locked" and "broken" of a study's database into a :class:`MachineError`, without its address.

    A journal or SQLite file on a full or read-only disk is told by the stage, as for any other file.
    """
    import sqlalchemy.exc

    no_answer: list[type[Exception]] = [
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.ProgrammingError,  # it may not make tables there, for example
        optuna.exceptions.StorageInternalError,
    ]
    try:
        yield
    except Exception as error:
        if (broken := _broken(error)) is not None:
            raise _no_whole_file(str(broken)) from error
        if "grpc" in sys.modules:
            no_answer.append(sys.modules["grpc"].RpcError)
        if not isinstance(error, tuple(no_answer)):
            raise
        said = _first_line(error)
        if "locked" not in said and ADDRESS not in os.environ:
            raise
        raise _no_answer(_without_address(said)) from error


def _first_line(error: Exception) -> str:
    details = getattr(error, "details", None)  # of a proxy
    said = str((details() if details else None) or error.__cause__ or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _broken(error: BaseException | None) -> BaseException | None:
    """What SQLite says of a file that is no database, or no whole one: an error of this very kind."""
    import sqlite3

    while error is not None and type(error) is not sqlite3.DatabaseError:
        error = error.__cause__
    return error


def _no_whole_file(said: str) -> MachineError:
    where = f"the file that {ADDRESS} names" if ADDRESS in os.environ else "study.db in the artifacts' scratch/tune"
    return MachineError("the study's SQLite file must be whole", said, f"remove {where}: the search begins anew")


def _no_answer(said: str) -> MachineError:
    shared = ADDRESS in os.environ
    return MachineError(
        "the study's database must answer, and no other program may keep it locked",
        said,
        f"start it, correct {ADDRESS}, or set tune.storage: journal" if shared else "end that program",
    )


def _without_address(said: str) -> str:
    from sqlalchemy.engine import make_url

    address = os.environ.get(ADDRESS)
    password = make_url(address).password if address else None
    return said.replace(str(password), "***") if password else said
