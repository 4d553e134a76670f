"""Accounting for a private Slurm: slurmdbd with its own MariaDB, so that limits of users are real."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess

from cluster import CannotStart, SlurmCluster, free_port

COMMANDS = ("mariadb-install-db", "mariadbd", "slurmdbd", "sacctmgr")

DATABASE = """\
CREATE DATABASE slurm_acct_db;
CREATE USER slurm@localhost IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO slurm@localhost;
"""

DAEMON = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""

SETTINGS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=limits,qos
"""


def account(cluster: SlurmCluster, most_jobs: int) -> None:
    """Give a cluster accounting, which limits the number of this user's jobs. Raises CannotStart."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise CannotStart(f"{', '.join(missing)} not installed (Debian: slurmdbd, mariadb-server)")
    port, database_port = free_port(), free_port()
    start_database(cluster, database_port)
    start_daemon(cluster, port, database_port)

    # The controller must find cluster and user in the database when it comes up; sacctmgr must know where to ask.
    configuration = cluster.folder / "slurm.conf"
    lines = [line for line in configuration.read_text().splitlines() if not line.startswith("AccountingStorage")]
    with_accounting = "\n".join([*lines, SETTINGS.format(folder=cluster.folder, port=port)])
    cluster.stop_controller()
    configuration.write_text(with_accounting)
    cluster.wait_for(lambda: manage(cluster, "list", "cluster"), "slurmdbd")
    name, user = cluster.folder.name, getpass.getuser()
    for order in (
        ("add", "cluster", name),
        ("add", "account", "lab"),
        ("add", "user", user, "account=lab"),
        ("modify", "qos", "normal", "set", f"MaxSubmitJobsPerUser={most_jobs}"),
    ):
        if not manage(cluster, *order):
            raise CannotStart(f"sacctmgr {' '.join(order)}: {cluster.last_words('slurmdbd')}")
    cluster.start_controller()


def start_database(cluster: SlurmCluster, port: int) -> None:
    """A MariaDB that listens on the local machine only, with an empty database for slurmdbd."""
    data, user = cluster.folder / "database", getpass.getuser()
    made = subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}", "--skip-test-db"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode != 0:
        raise CannotStart(f"mariadb-install-db: {made.stderr or made.stdout}")
    orders = cluster.folder / "database.sql"
    orders.write_text(DATABASE)
    cluster.start(
        "mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", f"--socket={data}/socket",
        f"--port={port}", "--bind-address=127.0.0.1", f"--init-file={orders}",
    )  # fmt: skip
    cluster.wait_for(lambda: listens(port), "mariadbd")


def start_daemon(cluster: SlurmCluster, port: int, database_port: int) -> None:
    """A slurmdbd, whose configuration is next to slurm.conf, where it expects it."""
    configuration = cluster.folder / "slurmdbd.conf"
    configuration.touch(0o600)
    text = DAEMON.format(folder=cluster.folder, port=port, database_port=database_port, user=getpass.getuser())
    configuration.write_text(text)
    cluster.start("slurmdbd", "-D")
    cluster.wait_for(lambda: listens(port), "slurmdbd")


def limit_query_range(cluster: SlurmCluster, longest: str) -> None:
    """From now on slurmdbd refuses queries over a longer range of dates, except from its own user."""
    configuration = cluster.folder / "slurmdbd.conf"
    configuration.write_text(f"{configuration.read_text()}MaxQueryTimeRange={longest}\n")
    cluster.stop("slurmdbd")
    cluster.start("slurmdbd", "-D")
    cluster.wait_for(lambda: manage(cluster, "list", "cluster"), "slurmdbd")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def manage(cluster: SlurmCluster, *order: str) -> bool:
    return cluster.run(["sacctmgr", "--immediate", "--noheader", *order]).code == 0
